// A day's work with dockerode. DOCKER_SOCKET says where the engine is, which has the image
// busybox:latest; NODE_PATH where dockerode is. Every step that fails ends it.
'use strict';
const assert = require('node:assert/strict');
const { PassThrough } = require('node:stream');
const Docker = require('dockerode');

const docker = new Docker({ socketPath: process.env.DOCKER_SOCKET });

const text = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts).toString();
};

// split reads the two streams of a container to their end.
const split = (stream) => {
  const out = new PassThrough(), err = new PassThrough();
  docker.modem.demuxStream(stream, out, err);
  stream.on('end', () => { out.end(); err.end(); });
  return Promise.all([text(out), text(err)]);
};

const followed = (stream) => new Promise((resolve, reject) =>
  docker.modem.followProgress(stream, (err, lines) => (err ? reject(err) : resolve(lines))));

// tar is an archive of one file (POSIX.1-2017, pax, "ustar Interchange Format").
const tar = (name, body) => {
  const head = Buffer.alloc(512), octal = (n, size) => n.toString(8).padStart(size - 1, '0') + '\0';
  head.write(name, 0); head.write(octal(0o644, 8), 100); head.write(octal(0, 8), 108); head.write(octal(0, 8), 116);
  head.write(octal(body.length, 12), 124); head.write(octal(0, 12), 136); head.write(' '.repeat(8), 148);
  head.write('0', 156); head.write('ustar\x0000', 257);
  head.write(octal(head.reduce((a, b) => a + b, 0), 8), 148);
  const data = Buffer.alloc(Math.ceil(body.length / 512) * 512 + 1024);
  data.write(body);
  return Buffer.concat([head, data]);
};

const steps = {
  async 'ping, version and info'() {
    assert.equal((await docker.ping()).toString(), 'OK');
    assert.match((await docker.version()).ApiVersion, /^1\.\d+$/);
    assert.equal((await docker.info()).OSType, 'linux');
  },

  async 'run, with both streams'() {
    const out = new PassThrough(), err = new PassThrough();
    const said = Promise.all([text(out), text(err)]);
    const [result, container] = await docker.run('busybox', ['sh', '-c', 'echo out; echo err >&2; exit 4'], [out, err], { Tty: false });
    assert.equal(result.StatusCode, 4);
    assert.deepEqual(await said, ['out\n', 'err\n']);
    await container.remove();
  },

  async 'attach, write and close one half'() {
    const c = await docker.createContainer({ Image: 'busybox', Cmd: ['sh', '-c', 'cat; echo end >&2'], OpenStdin: true, StdinOnce: true,
      AttachStdin: true, AttachStdout: true, AttachStderr: true, HostConfig: { AutoRemove: true } });
    const stream = await c.attach({ stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
    const said = split(stream), gone = c.wait({ condition: 'removed' });
    await c.start();
    stream.end('x'.repeat(200000));
    assert.deepEqual(await said, ['x'.repeat(200000), 'end\n']);
    assert.equal((await gone).StatusCode, 0);
  },

  async 'a container with a terminal, its size and its logs'() {
    const c = await docker.createContainer({ Image: 'busybox', Cmd: ['sh', '-c', 'read line; stty size; echo $line'], Tty: true, OpenStdin: true });
    const stream = await c.attach({ stream: true, stdin: true, stdout: true, hijack: true });
    const said = text(stream);
    await c.start();
    await c.resize({ h: 33, w: 99 });
    stream.write('typed\n');
    assert.match(await said, /33 99\r\ntyped\r\n/);
    assert.match((await c.logs({ stdout: true })).toString(), /33 99\r\ntyped\r\n/);
    await c.remove();
  },

  async 'exec, archives, stats, top and life'() {
    const c = await docker.createContainer({ Image: 'busybox', Cmd: ['sleep', '1000'], Labels: { from: 'node' }, name: 'node' });
    await c.start();
    const e = await c.exec({ Cmd: ['sh', '-c', 'cat; echo $A >&2; exit 6'], AttachStdin: true, AttachStdout: true, AttachStderr: true, Env: ['A=b'] });
    const stream = await e.start({ hijack: true, stdin: true });
    stream.end('in');
    assert.deepEqual(await split(stream), ['in', 'b\n']);
    assert.equal((await e.inspect()).ExitCode, 6);
    const plain = await (await c.exec({ Cmd: ['echo', 'plain'], AttachStdout: true })).start({});
    assert.deepEqual(await split(plain), ['plain\n', '']);

    await c.putArchive(tar('file', 'from node'), { path: '/tmp' });
    const back = await text(await c.getArchive({ path: '/tmp/file' }));
    assert.ok(back.startsWith('file\0') && back.includes('from node'));
    assert.ok((await c.infoArchive({ path: '/tmp/file' })) !== undefined);

    const [listed] = await docker.listContainers({ filters: { label: ['from=node'] } });
    assert.equal(listed.Names[0], '/node');
    assert.equal((await c.stats({ stream: false })).name, '/node');
    assert.equal((await c.top()).Processes.length, 1);
    await c.pause(); await c.unpause();
    await c.rename({ name: 'node2' });
    await c.restart({ t: 0 });
    await c.stop({ t: 0 });
    await assert.rejects(c.stop(), (err) => err.statusCode === 304);
    const image = await c.commit({ repo: 'node/committed', changes: 'ENV X=y' });
    assert.ok(image.Id);
    await docker.getImage('node/committed').remove();
    await c.remove();
    await assert.rejects(c.inspect(), (err) => err.statusCode === 404 && /No such container/.test(err.message));
  },

  async 'logs that are followed'() {
    const c = await docker.createContainer({ Image: 'busybox', Cmd: ['sh', '-c', 'for i in 1 2 3; do echo line $i; sleep 0.05; done'] });
    await c.start();
    const stream = await c.logs({ follow: true, stdout: true, stderr: true });
    assert.deepEqual(await split(stream), ['line 1\nline 2\nline 3\n', '']);
    await c.remove({ force: true });
  },

  async 'build, tag, save, load and remove'() {
    const stream = await docker.buildImage(require('node:stream').Readable.from([tar('Dockerfile', 'FROM busybox\nRUN echo built >/built\nCMD ["cat", "/built"]\n')]),
      { t: 'node/built', networkmode: 'none' });
    assert.match(JSON.stringify(await followed(stream)), /Successfully tagged node\/built:latest/);
    const image = docker.getImage('node/built');
    await image.tag({ repo: 'node/tagged', tag: '1' });
    const saved = Buffer.concat(await (await image.get()).toArray());
    await docker.getImage('node/tagged:1').remove();
    await image.remove();
    await followed(await docker.loadImage(require('node:stream').Readable.from([saved])));
    assert.equal((await image.inspect()).RepoTags[0], 'node/built:latest');
    assert.match((await image.history())[0].CreatedBy, /cat/);
    await image.remove();
  },

  async 'networks, volumes, ports and events'() {
    const abort = new AbortController();
    const events = await docker.getEvents({ filters: { type: ['container'], label: ['from=events'] }, abortSignal: abort.signal });
    const network = await docker.createNetwork({ Name: 'node-net', Labels: { from: 'node' } });
    await docker.createVolume({ Name: 'node-volume' });
    const c = await docker.createContainer({ Image: 'busybox', Cmd: ['httpd', '-f', '-p', '80'], Labels: { from: 'events' }, ExposedPorts: { '80/tcp': {} },
      HostConfig: { PortBindings: { '80/tcp': [{ HostIp: '127.0.0.1', HostPort: '' }] }, Binds: ['node-volume:/data'], NetworkMode: 'node-net' } });
    await c.start();
    const info = await c.inspect();
    assert.ok(info.NetworkSettings.Networks['node-net'].IPAddress);
    assert.ok(Number(info.NetworkSettings.Ports['80/tcp'][0].HostPort) > 0);
    assert.equal(info.Mounts[0].Name, 'node-volume');
    await docker.getNetwork('bridge').connect({ Container: c.id });
    await docker.getNetwork('bridge').disconnect({ Container: c.id });
    await c.remove({ force: true, v: true });
    let heard = '';
    for await (const part of events) {
      heard += part;
      if (heard.includes('"destroy"')) break;
    }
    const actions = heard.trim().split('\n').map((line) => JSON.parse(line).Action);
    assert.deepEqual(actions, ['create', 'start', 'kill', 'die', 'destroy']);
    abort.abort();
    await network.remove();
    await docker.getVolume('node-volume').remove();
  },
};

(async () => {
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
    } catch (err) {
      console.error(`${name}: ${err.stack}`);
      process.exit(1);
    }
    console.log(`${name}: well`);
  }
  process.exit(0);
})();
