// An HTTP server: GET /N is answered with the SHA-256 of N in hexadecimal. What goes wrong is printed as ERROR.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const http = require("http");
const { spawn } = require("child_process");

const bad = (what) => process.stdout.write(`ERROR: ${what}\n`);

const server = http.createServer((request, response) => {
  response.end(crypto.createHash("sha256").update(request.url.slice(1)).digest("hex"));
});
server.keepAliveTimeout = 600000;
server.on("clientError", (error) => bad(error));
process.on("uncaughtException", (error) => bad(error.stack));

// Files are read by threads of the pool.
const readOften = () => fs.readFile(__filename, (error, data) => {
  if (error || !data.includes("readOften")) bad(error || "the file is another");
  setTimeout(readOften, 2);
});

// Children come and go; each must be told of once, with its own status.
const spawnOften = (number) => {
  const status = number % 200;
  spawn("/bin/sh", ["-c", `exit ${status}`], { stdio: "ignore" }).on("error", bad).on("exit", (code, signal) => {
    if (code !== status) bad(`a child ended with ${code} ${signal} in place of ${status}`);
    setTimeout(() => spawnOften(number + 1), 20);
  });
};

server.listen(0, "127.0.0.1", () => {
  readOften();
  if (process.argv.includes("children")) spawnOften(0);
  const ready = Number(process.env.TARGET_READY);
  fs.writeSync(ready, `port=${server.address().port}\nready\n`);
  fs.closeSync(ready);
});
