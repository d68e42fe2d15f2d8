// One slide at a time; each as large as it fits. The address ends in the slide's number.
const slides = [...document.querySelectorAll("section")];
const fit = slide => {
  const body = slide.querySelector(".body");
  for (let size = 100; size >= 40; size -= 4) {
    body.style.fontSize = `${size}%`;
    if (body.scrollHeight <= body.clientHeight && body.scrollWidth <= body.clientWidth) break;
  }
};
const number = () => Math.min(Math.max(parseInt(location.hash.slice(1)) || 1, 1), slides.length);
const show = () => {
  slides.forEach((slide, place) => slide.classList.toggle("shown", place + 1 === number()));
  fit(slides[number() - 1]);
  slides[number() - 1].focus();
};
const STEPS = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1, Home: -1e6, End: 1e6 };
addEventListener("keydown", event => {
  if (event.target.matches("audio")) return;
  if (event.key in STEPS) {
    event.preventDefault();
    location.hash = Math.min(Math.max(number() + STEPS[event.key], 1), slides.length);
  } else if (event.key.toLowerCase() === "n") for (const notes of document.querySelectorAll("aside")) notes.hidden = !notes.hidden;
});
addEventListener("hashchange", show);
addEventListener("resize", show);
addEventListener("beforeprint", () => slides.forEach(slide => { slide.classList.add("shown"); fit(slide); }));
addEventListener("afterprint", show);
show();
