// Your own picture: a square of it, moved and zoomed, becomes a picture like the model's, and then a code.

const FINE = 4;          // pixels of the crop, across and down, that are averaged into one of the model's
let own = null;          // the picture {image, x, y, side}: the square's centre and side in its pixels

// Draw the square onto a canvas. Where it reaches beyond the picture, a copy stretched over all of it fills the rest.
function drawSquare(context) {
  const {image, x, y, side} = own, {width} = context.canvas, scale = width / side;
  const place = [side / 2 - x, side / 2 - y, image.width, image.height].map(pixels => pixels * scale);
  Object.assign(context, {imageSmoothingQuality: "high", fillStyle: "#fff"});
  for (const where of [[0, 0, width, width], place]) {
    context.fillRect(...where);  // white shows through
    context.drawImage(image, ...where);
  }
}

function drawCrop() {
  const context = $("crop").getContext("2d"), {width} = $("crop");
  drawSquare(context);
  for (const [x, y] of content.eyes) {
    for (const [style, line] of [["#0009", 8], ["#fff", 4]]) {
      Object.assign(context, {strokeStyle: style, lineWidth: line});
      context.beginPath();
      context.arc(x * width, y * width, 0.055 * width, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}

// The square as a picture of the model's size, each pixel a mean of FINE x FINE.
function cropped() {
  const canvas = Object.assign(document.createElement("canvas"), {width: size * FINE, height: size * FINE});
  const context = canvas.getContext("2d", {willReadFrequently: true});
  drawSquare(context);
  const {data} = context.getImageData(0, 0, canvas.width, canvas.width), picture = new Float32Array(3 * size ** 2);
  for (let y = 0, at = 0; y < canvas.width; y++) {
    for (let x = 0; x < canvas.width; x++, at += 4) {
      const pixel = 3 * (Math.floor(y / FINE) * size + Math.floor(x / FINE));
      for (let colour = 0; colour < 3; colour++) picture[pixel + colour] += data[at + colour] / 255 / FINE ** 2;
    }
  }
  return picture;
}

const encodeOwn = newest(async () => {
  const picture = cropped(), before = latest, code = Array.from(await encode(picture));
  if (latest === before) await take("your picture", code, show(blank(), picture));
});

let opened = 0;
async function open(file) {
  const number = ++opened, image = await createImageBitmap(file).catch(() => null);
  if (number !== opened) return image?.close();  // another one was opened since
  $("trouble").textContent = image ? "" : `This browser cannot read ${file.name} as a picture. Choose another one.`;
  if (!image) return;
  own?.image.close();
  own = {image, x: image.width / 2, y: image.height / 2, side: Math.min(image.width, image.height)};
  $("drop").hidden = true;
  $("zoom").disabled = false;
  $("zoom").value = 0;
  later(drawCrop, encodeOwn);
}

// Move the point at one place of the crop to another place, and show `factor` times as much around it.
function moveCrop(from, to, factor = 1) {
  if (!own) return;
  const {image} = own, least = Math.min(image.width, image.height);
  const side = clamp(own.side * factor, least / 2 ** $("zoom").max, least / 2 ** $("zoom").min);
  const shift = axis => (from[axis] - 0.5) * own.side - (to[axis] - 0.5) * side;
  own = {image, side, x: clamp(own.x + shift("x"), 0, image.width), y: clamp(own.y + shift("y"), 0, image.height)};
  $("zoom").value = Math.log2(least / side);
  later(drawCrop, encodeOwn);
}

const zoomCrop = factor => moveCrop({x: 0.5, y: 0.5}, {x: 0.5, y: 0.5}, factor);

function listenToPicture() {
  const crop = $("crop");
  $("guide").hidden = !content.eyes.length;
  $("choose").onclick = () => $("file").click();
  $("file").onchange = () => { if ($("file").files.length) open($("file").files[0]); $("file").value = ""; };
  $("zoom").oninput = () => {
    zoomCrop(Math.min(own.image.width, own.image.height) / 2 ** $("zoom").value / own.side);
  };
  document.addEventListener("dragover", event => event.preventDefault());
  document.addEventListener("drop", event => {  // anywhere: otherwise the browser would leave the page to open it
    event.preventDefault();
    if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });

  listenToPan(crop, moveCrop);
  crop.onkeydown = event => {
    const step = event.shiftKey ? 0.005 : 0.03, {key} = event;
    const move = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]}[key];
    if (!own || event.ctrlKey || event.metaKey || event.altKey) return;
    if (move) moveCrop({x: 0, y: 0}, {x: move[0], y: move[1]});
    else if (key === "+" || key === "=") zoomCrop(1 / 1.05);
    else if (key === "-") zoomCrop(1.05);
    else return;
    event.preventDefault();
  };
}
