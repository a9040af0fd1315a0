const body = document.querySelector("tbody"), rows = [...body.rows], heads = [...document.querySelectorAll("th")];
const box = document.querySelector("input"), count = document.querySelector("output");
const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, "en", {numeric: true}) : a - b;
function order(at, down) {
  const keyed = rows.map((row, i) => [row.cells[at].dataset.value, row, i]);
  const value = text => heads[at].dataset.kind === "text" ? text : parseFloat(text);
  keyed.sort((a, b) => a[0] === "" || b[0] === "" ? (a[0] === "") - (b[0] === "") || a[2] - b[2]
    : (down ? -1 : 1) * compare(value(a[0]), value(b[0])) || a[2] - b[2]);
  body.append(...keyed.map(part => part[1]));
  heads.forEach((head, i) => head.hasAttribute("aria-sort") && head.setAttribute("aria-sort", i !== at ? "none" : down ? "descending" : "ascending"));
}
heads.forEach((head, at) => head.querySelector("button")?.addEventListener("click", () => order(at, head.getAttribute("aria-sort") === "ascending")));
box.addEventListener("input", () => {
  const wanted = box.value.trim().toLowerCase();
  rows.forEach(row => row.hidden = !row.cells[0].dataset.value.toLowerCase().includes(wanted));
  count.value = rows.filter(row => !row.hidden).length + " of " + rows.length + " classes";
});
document.querySelector(".tools").hidden = false;
