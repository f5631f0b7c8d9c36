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
  walked();
  if ($("walk").value < 1) playing = requestAnimationFrame(play);
  else pause();
}

function pause() {
  cancelAnimationFrame(playing);
  playing = start = undefined;
  $("play").textContent = "Walk";
}

function listenToWalk(step) {
  walked = step;
  $("walk").oninput = () => { pause(); walked(); };
  $("play").onclick = () => {
    if (playing) return pause();
    $("play").textContent = "Pause";
    playing = requestAnimationFrame(play);
  };
}

const fail = error => {
  $("help").textContent = `This browser cannot show the page; one from 2023 or later can. (${error})`;
  throw error;
};
