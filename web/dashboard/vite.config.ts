import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { defineConfig, type Plugin } from 'vite';

/** Writes `.br` and `.gz` beside each file that gets smaller by it: the server sends them as they are. */
function precompress(dir: string): Plugin {
  const walk = (at: string): string[] =>
    readdirSync(at).flatMap((name) => {
      const path = join(at, name);
      return statSync(path).isDirectory() ? walk(path) : [path];
    });
  return {
    name: 'precompress',
    apply: 'build',
    closeBundle() {
      for (const file of walk(dir).filter((path) => /\.(html|js|css|svg|txt)$/.test(path))) {
        const plain = readFileSync(file);
        const brotli = brotliCompressSync(plain, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
        const gzip = gzipSync(plain, { level: 9 });
        if (brotli.length < plain.length) writeFileSync(`${file}.br`, brotli);
        if (gzip.length < plain.length) writeFileSync(`${file}.gz`, gzip);
      }
    },
  };
}

/** Writes the licences of everything that the page carries: whoever passes it on has to show them. */
function licences(dir: string): Plugin {
  return {
    name: 'licences',
    apply: 'build',
    writeBundle() {
      const texts = ['preact', '@preact/signals', '@preact/signals-core', 'uplot', '@fontsource-variable/inter'].map((name) => {
        const room = join(import.meta.dirname, 'node_modules', name);
        const about = JSON.parse(readFileSync(join(room, 'package.json'), 'utf8')) as { version: string; license: string };
        const file = readdirSync(room).find((entry) => /^licen[cs]e/i.test(entry));
        const text = file === undefined ? '' : readFileSync(join(room, file), 'utf8');
        return `${name} ${about.version}, ${about.license}\n\n${text.trim()}\n`;
      });
      writeFileSync(join(dir, 'licences.txt'), texts.join(`\n${'-'.repeat(80)}\n\n`));
    },
  };
}

const dist = join(import.meta.dirname, 'dist/page');

export default defineConfig({
  base: '/',
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    outDir: dist,
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: { polyfill: false },
    // Nothing is inlined: the page's policy allows no inline script, style or font.
    assetsInlineLimit: 0,
  },
  // `npm run dev` works against a server that runs: FARSHORE_URL names it.
  server: { proxy: { '/api': { target: process.env['FARSHORE_URL'] ?? 'http://127.0.0.1:8443', changeOrigin: true } } },
  plugins: [licences(dist), precompress(dist)],
});
