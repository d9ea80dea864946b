"""The style sheet of a page: one column on a phone, text beside figures on a wide screen; light and dark mode."""

CSS = """
:root {
  --paper: #fdfcfa; --ink: #1f2328; --soft: #5b626a; --line: #e4e1db; --wash: #f4f1ec; --quiet: #a9aeb4;
  --accent: #b8430e; --below: #2f6690;
  --c0: #b8430e; --c1: #2f6690; --c2: #4d7c2f; --c3: #8a3f8f; --c4: #b0852a;
  --c5: #1f8a83; --c6: #c2486b; --c7: #5b5bc0; --c8: #7a5c44; --c9: #5f6b76;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --ink: #e6e4e0; --soft: #a2a8af; --line: #2e3237; --wash: #1f2226; --quiet: #6b727a;
    --accent: #f0884f; --below: #74b0dc;
    --c0: #f0884f; --c1: #74b0dc; --c2: #98c379; --c3: #cf8fd6; --c4: #e3bd65;
    --c5: #58c9c0; --c6: #f08aa8; --c7: #a5a5f5; --c8: #c5a283; --c9: #a7b2bd;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: break-word;
}
header, nav, main { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: clamp(2rem, 6vw, 4.5rem); }
.eyebrow { color: var(--accent); font-size: .8rem; font-weight: 600; letter-spacing: .08em; text-transform: uppercase; }
h1 { font-size: clamp(1.9rem, 5vw, 3rem); line-height: 1.12; letter-spacing: -.02em; font-weight: 650;
  margin: .3rem 0; }
h2 { font-size: 1.3rem; line-height: 1.25; letter-spacing: -.01em; font-weight: 620; margin: 0 0 .6rem; }
h3 { font-size: .95rem; line-height: 1.4; font-weight: 600; margin: 0 0 .4rem; }
p { margin: 0 0 .7rem; }
.lead { color: var(--soft); font-size: 1.05rem; max-width: 46rem; }
.notice { background: var(--wash); border-left: 3px solid var(--accent); padding: .7rem 1rem; margin: 1rem 0; }
.headline { display: flex; flex-wrap: wrap; gap: 1.5rem 3.5rem; margin: 2rem 0; }
.headline > div { max-width: 24rem; }
.big { font-size: clamp(2rem, 6vw, 3.1rem); line-height: 1.1; font-weight: 300; letter-spacing: -.02em; }
.first .big { color: var(--accent); font-weight: 500; }
.big small { font-size: 1rem; font-weight: 400; letter-spacing: 0; color: var(--soft); }
.headline p { color: var(--soft); font-size: .9rem; line-height: 1.5; margin: .35rem 0 0; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(8.4rem, 1fr)); gap: 1rem 1.2rem; margin: 0;
  padding: 1.25rem 0; border-top: 1px solid var(--line);
}
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; }
nav {
  display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; font-size: .88rem; padding-top: .6rem; padding-bottom: .6rem;
}
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; text-underline-offset: .2em; }
section { border-top: 1px solid var(--line); padding: clamp(2rem, 4vw, 3.25rem) 0; display: grid; gap: 1.1rem 3.5rem; }
section > * { min-width: 0; }
.words p { color: var(--soft); font-size: .93rem; max-width: 38rem; }
@media (min-width: 62rem) {
  section { grid-template-columns: 19rem minmax(0, 1fr); }
}
.empty { background: var(--wash); border-radius: .5rem; padding: 1.1rem 1.25rem; color: var(--soft); max-width: 44rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .82rem; line-height: 1.4; color: var(--soft); margin: 0 0 .3rem; }
figcaption b { color: var(--ink); font-weight: 600; }
img { display: block; width: 100%; height: auto; }
img.pixels { image-rendering: pixelated; }
.plot { display: grid; grid-template: var(--height) auto / 3.3rem minmax(0, 1fr); font-size: .75rem;
  color: var(--soft); }
.plot svg { display: block; width: 100%; height: 100%; overflow: visible; }
.plot .up, .plot .along { position: relative; }
.plot .up span { position: absolute; right: .5rem; transform: translateY(50%); line-height: 1; white-space: nowrap; }
.plot .along { grid-column: 2; height: 1.4rem; }
.plot .along span { position: absolute; top: .35rem; transform: translateX(-50%); line-height: 1; white-space: nowrap; }
.plot .along .first { transform: none; }
.plot .along .last { transform: translateX(-100%); }
.axis { font-size: .8rem; color: var(--soft); margin: 0 0 .4rem; }
.axis.below { text-align: right; margin: .2rem 0 0; }
.bare { grid-template-columns: 0 minmax(0, 1fr); }
.square { max-width: 34rem; }
path, line { vector-effect: non-scaling-stroke; fill: none; }
.grid { stroke: var(--line); stroke-width: 1; }
.base { stroke: var(--quiet); stroke-width: 1; }
.event { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 3; }
.accent { stroke: var(--accent); stroke-width: 2; }
.soft { stroke: var(--quiet); stroke-width: 1.6; }
.other { stroke: var(--below); stroke-width: 1.6; stroke-dasharray: 5 3; }
.filled { fill: var(--line); stroke: var(--quiet); stroke-width: 1; }
.dots { stroke-linecap: round; stroke-width: 5; stroke-opacity: .75; }
.many .dots { stroke-width: 3.2; }
.bar { fill: var(--accent); }
.bar.idle { fill: var(--quiet); }
.above { fill: var(--accent); }
.under { fill: var(--below); }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); }
.c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); } .c6 { stroke: var(--c6); } .c7 { stroke: var(--c7); }
.c8 { stroke: var(--c8); } .c9 { stroke: var(--c9); } .rest { stroke: var(--quiet); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0 0; padding: 0;
  font-size: .85rem; }
.legend li { display: flex; align-items: center; gap: .45rem; max-width: 100%; }
.legend li > span { min-width: 0; }
.legend svg { width: 1.1rem; height: .7rem; flex: none; overflow: visible; }
.legend .dots { stroke-width: 9; stroke-opacity: 1; }
.notes { font-size: .85rem; color: var(--soft); padding-left: 1.1rem; margin: .8rem 0 0; }
.multiples { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); gap: 1.3rem 1.4rem; }
.multiples b { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.multiples .plot { font-size: .7rem; }
.waves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)); gap: 1rem 1.6rem; }
.c1.line { stroke-width: 1.6; }
.wave .line { stroke-width: 1.3; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: 1.5rem 2rem; }
.heat { display: grid; grid-template-columns: fit-content(38%) minmax(0, 1fr); gap: 0 .7rem; font-size: .75rem; }
.heat ol { list-style: none; margin: 0; padding: 0; color: var(--soft); min-width: 0; }
.heat li { height: 1.25rem; line-height: 1.25rem; text-align: right; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.heat svg { width: 100%; display: block; background: var(--wash); border-radius: 2px; }
.heat .ends { grid-column: 2; display: flex; justify-content: space-between; color: var(--soft); padding-top: .2rem; }
.rows { display: grid; gap: .55rem; max-width: 50rem; }
.rows figure { display: grid; align-items: center; gap: .1rem .9rem; }
.rows figcaption { margin: 0; }
.ends-of-rows { display: flex; justify-content: space-between; font-size: .75rem; color: var(--soft); }
@media (min-width: 40rem) {
  .rows figure { grid-template-columns: 6.5rem minmax(0, 1fr); }
  .ends-of-rows { padding-left: 7.4rem; }
}
.stack { display: grid; gap: 1.6rem; }
.body h3 { margin-top: 1.6rem; }
.gauge { width: 100%; max-width: 44rem; border-collapse: collapse; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; }
.wide { overflow-x: auto; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: .8rem; }
th, td { padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
.right { text-align: right; }
.gauge td { vertical-align: middle; }
.gauge .track { width: 45%; }
.track svg { display: block; width: 100%; height: .6rem; background: var(--wash); border-radius: 3px; }
.forest { min-width: 46rem; }
.forest td { vertical-align: middle; white-space: nowrap; }
.forest .track { width: 34%; }
.forest .track svg { height: 1.1rem; background: none; overflow: visible; }
.forest .solid { stroke-width: 2; stroke-dasharray: none; }
.forest .dots { stroke-width: 8; stroke-opacity: 1; }
.forest th { white-space: nowrap; }
pre { background: var(--wash); border-radius: .5rem; padding: 1rem 1.1rem; overflow-x: auto; margin: 0 0 1rem; }
pre, code { font: .82rem/1.65 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.graph { width: 100%; max-width: 27rem; display: block; }
.graph text { fill: var(--ink); font-size: 13px; }
.graph .faint { fill: var(--soft); font-size: 12px; }
.graph .name { font-size: 16px; font-style: italic; text-anchor: middle; font-family: ui-serif, Georgia, serif; }
.graph .node { fill: var(--paper); stroke: var(--ink); stroke-width: 1.5; }
.graph .seen { fill: var(--wash); stroke: var(--ink); stroke-width: 1.5; }
.graph .edge { stroke: var(--accent); stroke-width: 1.8; }
.graph .infer { stroke: var(--below); stroke-width: 1.8; stroke-dasharray: 6 4; }
.graph .dotted { fill: none; stroke: var(--soft); stroke-width: 1.6; stroke-dasharray: .1 4.5; stroke-linecap: round; }
.graph .tip { fill: var(--accent); stroke: none; }
.graph .infer-tip { fill: var(--below); stroke: none; }
.words code, .headline code { font-size: .9em; color: var(--ink); }
@media print { nav { display: none; } section { break-inside: avoid; } }
""".strip()
