// The official CloudEvents SDK of JavaScript as a reader and a writer: one request a line in, one answer a line out.
//
//   {"read": "kafka" | "mqtt" | "http", "headers": {}, "contentType": "", "key": "", "body": Base64}  →  event
//   {"write": "kafka" | "mqtt" | "http", "mode": "binary" | "structured", "event": {}}                 →  message
//   {"subscribe": topic, "broker": URL}                  →  {"subscribed": topic}, and then an event for each message
//   {"publish": topic, "broker": URL, "mode": "", "event": {}}                                         →  {"published": topic}
//
// An answer that could not be made is {"error": ""}.
"use strict";

const readline = require("readline");
const { CloudEvent, HTTP, Kafka, MQTT } = require("cloudevents");

const bindings = { http: HTTP, kafka: Kafka, mqtt: MQTT };
const clients = [];

function bytes(data) {
  if (data === undefined) return Buffer.alloc(0);
  if (ArrayBuffer.isView(data)) return Buffer.from(data); // one byte an element, whatever the array
  return Buffer.from(typeof data === "string" ? data : JSON.stringify(data));
}

function read(binding, { headers, contentType, key, body }) {
  const content = Buffer.from(body, "base64");
  if (binding === "kafka") {
    return Kafka.toEvent({ headers: { ...headers, "content-type": contentType }, key, value: content, body: content });
  }
  if (binding === "mqtt") {
    return MQTT.toEvent({ PUBLISH: { "Content Type": contentType }, headers, body: content.toString() }, true);
  }
  return HTTP.toEvent({ headers: { ...headers, "content-type": contentType }, body: content.toString() });
}

function shown(event) {
  const attributes = JSON.parse(JSON.stringify(event));
  delete attributes.data;
  delete attributes.data_base64;
  const parsed = event.data !== undefined && typeof event.data !== "string" && !ArrayBuffer.isView(event.data);
  return { attributes, parsed, data: bytes(event.data).toString("base64") };
}

function event({ data_bytes: data, ...attributes }) {
  return new CloudEvent(data === undefined ? attributes : { ...attributes, data: new Uint8Array(Buffer.from(data, "base64")) });
}

function write(binding, mode, what) {
  const message = bindings[binding][mode](what);
  const contentType = binding === "mqtt" ? message.PUBLISH["Content Type"] : message.headers["content-type"];
  return { headers: message.headers, contentType, key: message.key, body: bytes(message.body).toString("base64") };
}

async function connected(url) {
  const client = await require("mqtt").connectAsync(url, { protocolVersion: 5 });
  clients.push(client);
  return client;
}

async function subscribe(topic, url, answer) {
  const client = await connected(url);
  client.on("message", (_, body, packet) => {
    const { contentType, userProperties } = packet.properties;
    answer(() => shown(read("mqtt", { headers: { ...userProperties }, contentType, body: body.toString("base64") })));
  });
  await client.subscribeAsync(topic, { qos: 1 });
  return { subscribed: topic };
}

async function publish(topic, url, mode, what) {
  const { headers, contentType, body } = write("mqtt", mode, what);
  const client = await connected(url);
  const given = Object.entries(headers).filter(([, value]) => value !== undefined);
  const userProperties = Object.fromEntries(given.map(([name, value]) => [name, String(value)]));
  // The client writes a broken packet when there are properties of which none is given.
  const properties = given.length ? { contentType, userProperties } : { contentType };
  await client.publishAsync(topic, Buffer.from(body, "base64"), { qos: 1, properties });
  return { published: topic };
}

async function answer(work) {
  let line;
  try {
    line = JSON.stringify(await work());
  } catch (error) {
    line = JSON.stringify({ error: String(error) });
  }
  process.stdout.write(line + "\n");
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    await answer(() => {
      if (request.read) return shown(read(request.read, request));
      if (request.write) return write(request.write, request.mode, event(request.event));
      if (request.subscribe) return subscribe(request.subscribe, request.broker, answer);
      return publish(request.publish, request.broker, request.mode, event(request.event));
    });
  }
  await Promise.all(clients.map((client) => client.endAsync()));
}

main();
