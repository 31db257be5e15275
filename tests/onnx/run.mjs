// Runs every network of a folder in ONNX Runtime on the CPU. NAME.onnx is given each of its inputs, NAME.BxHxW.in
// (raw float32 images [B, 3, H, W]); each of its outputs becomes NAME.BxHxW.OUTPUT.out, raw float32 too.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { endianness } from 'node:os'
import ort from 'onnxruntime-node'

const folder = process.argv[2]
const files = readdirSync(folder).sort()

if (endianness() !== 'LE') throw new Error('raw files are little-endian')

const floats = (path) => {
  const bytes = readFileSync(path)
  // A copy, because a buffer of node may begin at any byte.
  return new Float32Array(new Uint8Array(bytes).buffer)
}

for (const name of files.filter((file) => file.endsWith('.onnx')).map((file) => file.slice(0, -5))) {
  try {
    const session = await ort.InferenceSession.create(join(folder, `${name}.onnx`), { executionProviders: ['cpu'] })

    for (const file of files.filter((file) => file.startsWith(`${name}.`) && file.endsWith('.in'))) {
      const shape = file.slice(name.length + 1, -3)
      const [batch, height, width] = shape.split('x').map(Number)
      const images = new ort.Tensor('float32', floats(join(folder, file)), [batch, 3, height, width])
      const results = await session.run({ images })

      for (const [output, { data }] of Object.entries(results)) {
        const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
        writeFileSync(join(folder, `${name}.${shape}.${output}.out`), bytes)
      }
    }

    await session.release()
  } catch (problem) {
    console.error(`${name}: ${problem.message}`)
    process.exitCode = 1
  }
}
