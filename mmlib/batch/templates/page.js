// Sorts a table by the column whose button was pressed: numbers by their value, all else as text.
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
  const down = head.getAttribute("aria-sort") === "ascending";
  const text = row => row.cells[head.cellIndex].textContent;
  const number = row => {
    const cell = row.cells[head.cellIndex];
    const value = cell.matches(".number") ? parseFloat(cell.dataset.value ?? cell.textContent) : 0;
    return Number.isNaN(value) ? -Number.MAX_VALUE : value;  // what was not measured comes before what was
  };
  const order = (a, b) => number(a) - number(b) || text(a).localeCompare(text(b), undefined, { numeric: true });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
});
