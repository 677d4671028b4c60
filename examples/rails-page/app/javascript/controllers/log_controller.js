import { Controller } from "@hotwired/stimulus"

export default class extends Controller {
  static values = { events: String }

  // At the beginning, and when a morph brings a new position.
  eventsValueChanged(url) {
    this.disconnect()
    this.source = new EventSource(url)
    this.source.onmessage = ({ data }) => this.add(JSON.parse(data))
    this.source.addEventListener("reset", () => this.reload())
  }

  disconnect() {
    this.source?.close()
    clearTimeout(this.reloading)
  }

  add({ n, text }) {
    if (n <= (this.element.lastElementChild?.value ?? 0)) return // it was on the page already
    const line = document.createElement("li")
    line.value = n
    line.textContent = text
    this.element.append(line)
  }

  // What is missing can't be told: take it from the database.
  reload() {
    this.disconnect()
    this.reloading = setTimeout(() => location.reload(), Math.random() * 10_000) // not all pages at once
  }
}
