// Computes the networks beside the page, which therefore never waits. The first message brings them; then each names
// one and its inputs, and is answered by its outputs under the same number.

let loaded;

onmessage = async ({data: {number, networks, name, inputs}}) => {
  try {
    if (networks) loaded = Promise.all(Object.values(networks).map(load)).then(() => networks);
    const network = (await loaded)[name];
    postMessage({number, outputs: network && run(network, inputs)});
  } catch (error) {
    postMessage({number, error: `${error}`});
  }
};
