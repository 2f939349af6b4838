// The page's style. Series colors: six that differ by at least 20 in CIELAB also for people with protanopia, deuteranopia
// and tritanopia, with contrast of at least 3 to their background; none is red or green, which would mean bad or good.

const seriesColors = {
  light: ["#1f56a8", "#d17000", "#b650ee", "#663600", "#2f2d39", "#8d8172"],
  dark: ["#8fc4ff", "#ffa62e", "#b845ff", "#a0764a", "#f6f6f8", "#858a94"],
} as const;

const pageColors = {
  light: {
    back: "#ffffff",
    card: "#f6f7f9",
    text: "#1b1f24",
    soft: "#57606a",
    line: "#d9dee4",
    link: "#0b5cad",
  },
  dark: {
    back: "#15181d",
    card: "#1d2127",
    text: "#e8eaed",
    soft: "#a4adb8",
    line: "#343a43",
    link: "#8fc4ff",
  },
} as const;

const variables = (theme: "light" | "dark") =>
  [
    ...Object.entries(pageColors[theme]).map(([name, color]) => `--${name}:${color}`),
    ...seriesColors[theme].map((color, i) => `--c${i}:${color}`),
  ].join(";");

const series = seriesColors.light.map((_, i) => `.c${i}{--own:var(--c${i})}`).join("");

export const css = `
:root{color-scheme:light dark;${variables("light")}}
@media (prefers-color-scheme:dark){:root{${variables("dark")}}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
main{max-width:1200px;margin:0 auto;padding:24px 16px 48px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:40px 0 12px}
h3{font-size:1rem;margin:0}
p{margin:0 0 12px}
.soft,.note,figcaption span{color:var(--soft)}
.note{font-size:.875rem;margin:6px 0 0}
.lead{font-size:1.0625rem;max-width:75ch;margin:16px 0 0}
.warning{border-left:3px solid var(--c1);padding:4px 0 4px 12px;margin:12px 0}
code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
a{color:var(--link)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr));gap:12px;margin:20px 0 0;padding:0}
.figures div{background:var(--card);border-radius:10px;padding:12px 14px}
.figures dt{font-size:.8125rem;color:var(--soft)}
.figures dd{margin:2px 0 0;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums}
.figures dd small{display:block;font-size:.8125rem;font-weight:400;color:var(--soft)}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:10px}
.wide:has(thead th:nth-child(2):last-child){max-width:520px}
table{border-collapse:collapse;width:100%;font-size:.9375rem;font-variant-numeric:tabular-nums}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
th,td{text-align:left;vertical-align:top;padding:8px 14px;border-bottom:1px solid var(--line);overflow-wrap:normal}
thead th{font-weight:500;vertical-align:bottom;font-size:.8125rem;color:var(--soft);white-space:nowrap}
tbody th{font-weight:500;position:sticky;left:0;background:var(--back)}
th .name{display:inline-block;width:max-content;max-width:min(30ch,38vw);white-space:normal;overflow-wrap:anywhere}
tbody tr:last-child>*{border-bottom:0}
.number{text-align:right;white-space:nowrap}
td small{display:block;color:var(--soft);font-size:.8125rem}
.key{display:inline-flex;align-items:center;gap:7px;font-weight:500}
.key svg{width:22px;height:8px;flex:none}
.key path{fill:none;stroke:var(--own);stroke-width:3}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:0 0 14px;padding:0;list-style:none;font-size:.9375rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:28px 32px}
.chart{margin:0;min-width:0}
#loss,.chart:last-child:nth-child(even){grid-column:1/-1}
figcaption{display:flex;flex-wrap:wrap;gap:0 10px;align-items:baseline;margin-bottom:10px}
figcaption span{font-size:.8125rem}
.plot{position:relative;padding:0 12px 26px 62px}
.plot>svg{display:block;width:100%;height:210px;overflow:visible;cursor:crosshair}
#loss .plot>svg{height:300px}
.plot svg svg{overflow:visible}
.plot>svg:focus-visible,.wide:focus-visible{outline:2px solid var(--link);outline-offset:3px;border-radius:4px}
.plot text{font-size:12px;fill:var(--soft);font-variant-numeric:tabular-nums}
.plot text.y{text-anchor:end}
.plot text.x{text-anchor:middle}
.grid{stroke:var(--line);stroke-width:1}
.plot path{fill:none;stroke:var(--own);stroke-width:2;stroke-linejoin:round;vector-effect:non-scaling-stroke}
.plot path.faint{stroke-width:1;opacity:.28}
.plot path.dot{stroke-width:7;stroke-linecap:round;stroke-dasharray:none}
${series}
.d1{stroke-dasharray:7 3}.d2{stroke-dasharray:2 3}.d3{stroke-dasharray:9 3 2 3}
.cursor{stroke:var(--soft);stroke-width:1}
output{position:absolute;top:4px;z-index:1;pointer-events:none;background:var(--back);border:1px solid var(--line);border-radius:8px;padding:6px 10px;font-size:.8125rem;line-height:1.45;box-shadow:0 2px 10px #0003;max-width:70%;font-variant-numeric:tabular-nums}
output b{font-weight:600}
output:empty{display:none}
article{border-top:1px solid var(--line);padding:16px 0}
article h3{font-weight:600;white-space:pre-wrap;margin-bottom:10px}
.wide+article{border-top:0}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,200px),1fr));gap:12px}
.answer{background:var(--card);border-radius:10px;padding:10px 14px;font-size:.9375rem}
.answer>div{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 10px;font-size:.8125rem;color:var(--soft);margin-bottom:4px}
.answer p{margin:0;white-space:pre-wrap}
.expected{background:none;border:1px dashed var(--line)}
.match{color:var(--text);font-weight:600}
details{margin:16px 0}
.answer details{margin:8px 0 0;font-size:.8125rem}
.answer dl{margin:6px 0 0}
.answer dt{color:var(--soft);margin-top:6px}
.answer dd{margin:0;white-space:pre-wrap}
summary{cursor:pointer;font-weight:500}
footer{margin-top:48px;border-top:1px solid var(--line);padding-top:14px;font-size:.875rem;color:var(--soft)}
@media (max-width:480px){body{font-size:15px}main{padding:16px 14px 32px}.plot{padding-left:52px}#loss .plot>svg{height:240px}th,td{padding:7px 10px}}
@media print{:root{${variables("light")}}body{font-size:11pt}.wide{overflow:visible}table{font-size:8pt}th,td{padding:3px 5px}thead th .name{max-width:9ch}tbody th{position:static}td small,thead th{font-size:7pt}.number{white-space:normal}figure,article,tr{break-inside:avoid}output,.cursor{display:none}}
`;
