// Shared by the pages.

const $ = id => document.getElementById(id);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const content = JSON.parse($("content").textContent);

const due = new Set();
function later(...tasks) {  // runs each once, before the next frame
  if (!due.size) requestAnimationFrame(() => { const now = [...due]; due.clear(); now.forEach(task => task()); });
  tasks.forEach(task => due.add(task));
}

function normal() {  // two draws of N(0, 1): Box & Muller 1958
  const radius = Math.sqrt(-2 * Math.log(1 - Math.random())), angle = 2 * Math.PI * Math.random();
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}

// ---- The walk: from one end to the other, by hand or by itself ------------------------------------------------

const WALK = 4000;  // milliseconds
let playing, start, walked;  // walked: what the page does at each step

function play(time) {
  start ??= time - $("walk").value % 1 * WALK;  // at the end, start over
  $("walk").value = (time - start) / WALK;
  if ($("walk").value < 1) playing = requestAnimationFrame(play);
  else pause();
  walked();
}

function pause() {
  cancelAnimationFrame(playing);
  playing = start = undefined;
  $("play").textContent = "Walk";
  $("caption").setAttribute("aria-live", "polite");
}

function listenToWalk(step) {
  walked = step;
  $("walk").oninput = () => { pause(); walked(); };
  $("play").onclick = () => {
    if (playing) { pause(); return walked(); }
    $("play").textContent = "Pause";
    $("caption").setAttribute("aria-live", "off");  // not to be read at every step
    playing = requestAnimationFrame(play);
  };
}

// ---- Panning and zooming --------------------------------------------------------------------------------------

// Two fingers, the wheel and, unless `one` is given, a single pointer call move(from, to, factor), to bring what is at one
// place of the element to another, and to show `factor` times as much around it. `hover` follows a pointer that isn't
// down, `press` gets a new one and how many are down, and `release` is called when the last one is lifted. Places {x, y}
// are shares of the element's width.
function listenToPan(element, move, {hover, press, one, release} = {}) {
  const pressed = new Map();  // pointer -> its place
  const here = ({clientX, clientY}) => {
    const {left, top, width} = element.getBoundingClientRect();
    return {x: (clientX - left) / width, y: (clientY - top) / width};
  };
  element.onpointerdown = event => {
    if (event.button) return;
    element.setPointerCapture(event.pointerId);
    pressed.set(event.pointerId, here(event));
    press?.(here(event), pressed.size);
  };
  element.onpointermove = event => {
    if (!event.buttons) pressed.delete(event.pointerId);  // released where the page couldn't see it: over a menu
    const before = pressed.get(event.pointerId), now = here(event);
    if (!before) return hover?.(now);
    pressed.set(event.pointerId, now);
    const other = [...pressed].find(([pointer]) => pointer !== event.pointerId)?.[1];
    if (!other) return one ? one(before, now, event) : move(before, now);
    const middle = ({x, y}) => ({x: (x + other.x) / 2, y: (y + other.y) / 2});
    const distance = ({x, y}) => Math.hypot(x - other.x, y - other.y) + 0.003;
    move(middle(before), middle(now), distance(before) / distance(now));
  };
  element.onpointerup = element.onpointercancel = event => {
    if (pressed.delete(event.pointerId) && !pressed.size && event.type === "pointerup") release?.();
  };
  element.addEventListener("wheel", event => {
    event.preventDefault();
    // A trackpad's pinch comes as a wheel with Ctrl, in smaller steps.
    move(here(event), here(event), Math.exp(event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)));
  }, {passive: false});
}

const fail = error => {
  $("help").textContent = `This browser cannot show the page; one from 2023 or later can. (${error})`;
  throw error;
};
