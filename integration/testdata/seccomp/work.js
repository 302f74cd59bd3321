// A Node.js program's day.
const fs = require('fs'), os = require('os'), net = require('net'), zlib = require('zlib'), crypto = require('crypto');
const { execFile } = require('child_process'), { Worker } = require('worker_threads');

const worker = () => new Promise((done, failed) => {
  const w = new Worker("require('worker_threads').parentPort.postMessage(6 * 7)", { eval: true });
  w.on('message', done).on('error', failed);
});
const child = () => new Promise((done, failed) =>
  execFile(process.execPath, ['-e', 'console.log(6 * 7)'], (err, out) => (err ? failed(err) : done(out.trim()))));
const talk = () => new Promise((done, failed) => {
  const server = net.createServer((s) => s.end('hello')).listen('/tmp/socket', () =>
    net.connect('/tmp/socket').on('data', (d) => { server.close(); done(String(d)); }).on('error', failed));
});

(async () => {
  fs.writeFileSync('/tmp/a', zlib.gzipSync(crypto.randomBytes(1000)));
  if (zlib.gunzipSync(await fs.promises.readFile('/tmp/a')).length !== 1000) throw new Error('file');
  os.networkInterfaces();
  os.cpus();
  if (await worker() !== 42 || await child() !== '42' || await talk() !== 'hello') throw new Error('answers');
  await new Promise((done) => setTimeout(done, 5));
  console.log('done');
})().catch((err) => { console.error(err); process.exit(1); });
