// Treescope would run each of its scripts as soon as the browser has opened it, and of a page that
// comes in pieces that may be half of the script. This element, which it takes as it finds it, waits
// for the whole page.
class RunHere extends HTMLElement {
  connectedCallback() {
    if (document.readyState === "loading") {
      document.addEventListener("DOMContentLoaded", () => this.run(), { once: true });
    } else {
      this.run();
    }
  }

  run() {
    const script = this.querySelector("script");
    const source = script.textContent;
    script.textContent = ""; // It may be connected again while it runs.
    new Function(source).call(this);
    this.remove();
  }
}
customElements.define("treescope-run-here", RunHere);
