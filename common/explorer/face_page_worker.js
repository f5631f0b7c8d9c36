// Computes the networks in a thread of its own, so that the page never waits. The first message brings them; each later
// one names a network and its inputs, and the answer holds the outputs under the same number.

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
