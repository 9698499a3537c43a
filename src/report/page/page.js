'use strict';
// The page itself: filters, the sections of the figures, the table, samples and responses.

const by = (id) => document.getElementById(id);

function table(caption, headings, rows) {
  const isNumber = (text) => /^-?[\d.]/.test(text) || text === 'n/a';
  return element('div', {class: 'scroll'}, element('table', {}, element('caption', {}, caption),
      element('thead', {}, element('tr', {}, ...headings.map((h) => element('th', {scope: 'col'}, h)))),
      element('tbody', {}, ...rows.map((row) => element('tr', {}, ...row.map((text, i) => i === 0 ?
        element('th', {scope: 'row'}, text) : element('td', isNumber(text) ? {class: 'number'} : {}, text)))))));
}
const tsv = (headings, rows) => [headings, ...rows].map((row) => row.map((t) => String(t).replace(/[\t\r\n]+/g, ' ')).join('\t')).join('\n') + '\n';

// A page from disk may not be allowed to use the clipboard; a hidden field always may.
function copy(text, button) {
  const said = button.textContent;
  const done = (ok) => { button.textContent = ok ? 'Copied' : 'Not allowed here'; setTimeout(() => button.textContent = said, 1500); };
  const byHand = () => {
    const field = element('textarea', {'aria-hidden': 'true'});
    field.value = text;
    document.body.append(field);
    field.select();
    const ok = document.execCommand('copy');
    field.remove();
    button.focus();
    done(ok);
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => done(true), byHand);
  else byHand();
}

// ---- filters -------------------------------------------------------------------------------------------------------

const filters = [
  {key: 'model', label: 'Model'}, {key: 'device', label: 'Device'}, {key: 'precision', label: 'Precision'},
  {key: 'batch', label: 'Batch'}, {key: 'context', label: 'Context, tokens'}, {key: 'test', label: 'Test'}, {key: 'stamp', label: 'Stamp'},
];
function buildFilters() {
  for (const filter of filters) {
    const values = Array.from(new Set(cells.map((c) => c[filter.key])));
    values.sort((a, b) => typeof a === 'number' ? a - b : 0);
    filter.boxes = values.map((value) => {
      const box = element('input', {type: 'checkbox', name: filter.key, value: String(value)});
      box.checked = true;
      return {value, box};
    });
    by('filters').append(element('fieldset', {}, element('legend', {}, filter.label),
        ...filter.boxes.map(({value, box}) => element('label', {}, box, ' ' + (value === '' ? 'none' : value)))));
  }
  const all = element('button', {type: 'button', onclick: () => {
    for (const filter of filters) for (const {box} of filter.boxes) box.checked = true;
    update();
  }}, 'All');
  by('filters').append(all, element('button', {type: 'button', onclick: () => {
    const dark = matchMedia('(prefers-color-scheme: dark)').matches;
    const root = document.documentElement.classList;
    const now = root.contains('dark') || (dark && !root.contains('light'));
    root.remove('dark', 'light');
    root.add(now ? 'light' : 'dark');
  }}, 'Light or dark'), element('button', {type: 'button', onclick: () => print()}, 'Print'));
  by('filters').addEventListener('change', update);
  by('filters').addEventListener('submit', (event) => event.preventDefault());
}
function filtered() {
  const chosen = filters.map((f) => [f.key, new Set(f.boxes.filter((b) => b.box.checked).map((b) => b.value))]);
  return cells.filter((cell) => chosen.every(([key, values]) => values.has(cell[key])));
}

// ---- where the cells of a figure were measured, and what their stamps say ---------------------------------------------

function provenance(drawn) {
  const machines = Array.from(new Set(drawn.map((c) => c.machine)));
  const stamps = ['VALID', 'FLAGGED', 'INVALID'].map((stamp) => [stamp, drawn.filter((c) => c.stamp === stamp).length])
      .filter(([, count]) => count).map(([stamp, count]) => count + ' ' + stamp).join(', ');
  const find = (lines, name) => (lines.find((l) => l[0] === name) || ['', ''])[1];
  const short = machines.slice(0, 3).map((i) => {
    const lines = report.machines[i];
    return Array.from(new Set([find(lines, 'device.name'), find(lines, 'cpu'), find(lines, 'operating_system'),
      find(lines, 'device.gpu.driver') && 'driver ' + find(lines, 'device.gpu.driver')].filter(Boolean))).join(', ');
  }).join('; ') + (machines.length > 3 ? ' and ' + (machines.length - 3) + ' more' : '');
  const details = element('details', {}, element('summary', {}, 'Environment, stamps and files'));
  details.addEventListener('toggle', () => {
    if (details.children.length > 1) return;
    details.append(table('Stamps and files', ['cell', 'stamp', 'reasons', 'precision', 'engine', 'tuning', 'seed', 'runs ended', 'begun', 'file'],
        drawn.map((c) => [nameOf(c), c.stamp, c.reasons.join('; '), c.long, c.engine, c.tuning, String(c.raw.seed), c.stop, c.started, c.file])));
    for (const i of machines) details.append(table('Machine and program ' + (i + 1), ['what', 'is'], report.machines[i]));
  });
  return element('div', {}, element('p', {class: 'soft'}, short + '. ' + stamps + '.'), details);
}

// ---- figures -------------------------------------------------------------------------------------------------------

function buildFigures() {
  for (const figure of figures) {
    figure.body = element('div');
    const controls = element('div', {class: 'controls'});
    if (figure.choices) {
      figure.select = element('select', {onchange: () => drawFigure(figure, filtered())},
          ...figure.choices.map((name, i) => element('option', {value: i}, name)));
      controls.append(element('label', {}, 'Show ', figure.select));
    }
    const chart = () => Array.from(figure.body.querySelectorAll('svg[role=img]')).pop();
    for (const [label, saver] of [['SVG', saveSvg], ['PNG', savePng]]) {
      controls.append(element('button', {type: 'button', 'aria-label': 'Save ' + figure.title + ' as ' + label,
        onclick: () => chart() && saver(chart(), figure.id)}, 'Save ' + label));
    }
    controls.append(element('button', {type: 'button', onclick: (e) => copy(figure.tsv, e.target)}, 'Copy figures'));
    by('figures').append(element('section', {id: figure.id, 'aria-labelledby': figure.id + '-h'},
        element('h2', {id: figure.id + '-h'}, figure.title), element('p', {class: 'soft'}, figure.about), controls, figure.body));
  }
}
function drawFigure(figure, shown) {
  const {drawn, left, nodes, missing, headings, rows} = figure.draw(shown, figure.select ? Number(figure.select.value) : 0);
  figure.tsv = tsv(headings, rows);
  figure.body.replaceChildren();
  if (nodes.length === 0) figure.body.append(element('p', {}, missing || 'None of these cells has this figure.'));
  for (const node of nodes) figure.body.append(node.nodeName === 'svg' ? element('div', {class: 'scroll'}, node) : node);
  if (left > 0) figure.body.append(element('p', {}, left + ' more cells are not drawn; filter to see them.'));
  if (drawn.length === 0) return;
  figure.body.append(provenance(drawn),
      element('details', {}, element('summary', {}, 'As a table'), table(figure.title, headings, rows)));
}

// ---- the table -----------------------------------------------------------------------------------------------------

const of = (name, show) => [(c) => (metric(c, name) || {}).median, (c) => withInterval(metric(c, name), show)];
const fact = (key) => [(c) => c[key], (c) => String(c[key])];
const quality = (key, show) => [(c) => c.quality && c.quality[key] ? c.quality[key][0] : undefined,
  (c) => withInterval(c.quality && estimate(c.quality[key]), show)];
const columns = [
  ['model', ...fact('model')], ['precision', ...fact('precision')], ['test', ...fact('test')], ['batch', ...fact('batch')],
  ['context', ...fact('context')], ['device', ...fact('device')], ['engine', ...fact('engine')],
  ['tokens per second', (c) => (metric(c, speedOf(c)) || {}).median, (c) => withInterval(metric(c, speedOf(c)), format.rate)],
  ['latency', ...of('total_latency', format.ns)], ['TTFT', ...of('time_to_first_token', format.ns)],
  ['inter-token p50', ...of('inter_token_median', format.ns)], ['peak memory', ...of('memory_peak', format.bytes)],
  ['weights', ...of('weight_bytes', format.bytes)],
  ['read peak', (c) => c.raw.cached ? undefined : (metric(c, 'read_share') || {}).median,
    (c) => c.raw.cached ? 'in cache' : withInterval(metric(c, 'read_share'), format.share)],
  ['J/token', (c) => (metric(c, 'joules_per_token') || {}).median,
    (c) => (c.raw.estimated ? '≈ ' : '') + withInterval(metric(c, 'joules_per_token'), format.joules)],
  ['perplexity', ...quality('ppl', format.plain)], ['KL', ...quality('kl', format.plain)], ['top-1', ...quality('top', format.share)],
  ['stamp', (c) => c.stamp, (c) => c.status === 'ok' ? c.stamp : c.status],
  ['why', (c) => c.reasons.join('; '), (c) => c.status === 'ok' ? c.reasons.join('; ') : c.error], ['file', ...fact('file')],
];
const all = {sort: -1, up: true, page: 0, rows: 100};
function buildTable() {
  all.head = element('tr');
  all.body = element('tbody');
  all.where = element('span', {role: 'status'});
  columns.forEach(([name], i) => all.head.append(element('th', {scope: 'col', 'aria-sort': 'none'},
      element('button', {type: 'button', onclick: () => {
        all.up = all.sort === i ? !all.up : true;
        all.sort = i;
        all.page = 0;
        drawTable();
      }}, name))));
  const turn = (by_) => () => { all.page += by_; drawTable(); };
  all.back = element('button', {type: 'button', onclick: turn(-1)}, 'Previous');
  all.next = element('button', {type: 'button', onclick: turn(1)}, 'Next');
  by('figures').append(element('section', {id: 'table', 'aria-labelledby': 'table-h', tabindex: -1},
      element('h2', {id: 'table-h'}, 'All cells'),
      element('p', {class: 'soft'}, 'Medians, with 95 % intervals in brackets. A heading sorts.'),
      element('div', {class: 'controls'},
          element('button', {type: 'button', onclick: (e) => copy(tsv(columns.map((c) => c[0]), all.shown.map((c) => columns.map((k) => k[2](c)))), e.target)}, 'Copy table'),
          all.back, all.next, all.where),
      element('div', {class: 'scroll tall', tabindex: 0, role: 'region', 'aria-label': 'All cells'},
          element('table', {}, element('thead', {}, all.head), all.body))));
}
function drawTable() {
  if (all.sort >= 0) {
    const value = columns[all.sort][1];
    const missing = (x) => x === undefined || x === null || x === '';
    all.shown.sort((a, b) => {
      const x = value(a), y = value(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a.index - b.index;  // last, whichever way
      const order = typeof x === 'number' ? x - y : x.localeCompare(y);
      return (all.up ? order : -order) || a.index - b.index;
    });
  }
  Array.from(all.head.children).forEach((th, i) => th.setAttribute('aria-sort', i !== all.sort ? 'none' : all.up ? 'ascending' : 'descending'));
  const from = all.page * all.rows, to = Math.min(from + all.rows, all.shown.length);
  all.body.replaceChildren(...all.shown.slice(from, to).map((cell) => element('tr', {'data-cell': cell.index},
      ...columns.map(([name,, show], i) => {
        const text = show(cell);
        if (i === 0) return element('th', {scope: 'row'}, text);
        return element('td', {class: name === 'stamp' ? text : name === 'why' ? 'wide' : i >= 7 && i < 18 ? 'number' : ''}, text);
      }))));
  all.where.textContent = all.shown.length ? (from + 1) + ' to ' + to + ' of ' + all.shown.length : 'no cells';
  all.back.disabled = from === 0;
  all.next.disabled = to === all.shown.length;
}

// ---- every sample --------------------------------------------------------------------------------------------------

const samples = {};
function buildSamples() {
  samples.select = element('select', {onchange: drawSamples});
  samples.body = element('div');
  by('figures').append(element('section', {id: 'samples', 'aria-labelledby': 'samples-h'},
      element('h2', {id: 'samples-h'}, 'Every sample'),
      element('div', {class: 'controls'}, element('label', {}, 'Cell ', samples.select),
          element('button', {type: 'button', onclick: (e) => copy(samples.tsv, e.target)}, 'Copy samples')), samples.body));
}
const raw = (value) => value === undefined ? '' : String(value);
function drawSamples() {
  samples.tsv = '';
  samples.body.replaceChildren();
  const cell = cells[Number(samples.select.value)];
  if (samples.select.value === '' || !cell) return;
  samples.body.append(element('p', {class: 'soft'}, 'Times in nanoseconds, sizes in bytes. File: ' + cell.file));
  const names = Object.keys(cell.metrics);
  const unitOf = (name) => (report.metrics.find((m) => m.name === name) || {}).unit;
  const summary = names.map((name) => {
    const m = cell.metrics[name];
    return [name, unitOf(name), ...[m.runs, m.median, m.low, m.high, m.min, m.max, m.mad].map((x) => raw(x === null ? 'n/a' : x))];
  });
  const headings = ['metric', 'unit', 'runs', 'median', 'low', 'high', 'min', 'max', 'MAD'];
  samples.body.append(table('Metrics of ' + nameOf(cell), headings, summary));
  samples.tsv = tsv(headings, summary);
  if (!withSamples) {
    samples.body.append(element('p', {}, 'A page of so many records has quantiles alone, to seven digits. Every sample of this cell is in ' + cell.file));
    return;
  }
  const [counts, at, total, block, outliers] = cell.raw.runs;
  const kinds = [].concat(...['cold', 'warm-up', 'timed', 'repeated'].map((kind, i) => Array(counts[i]).fill(kind)));
  const times = unpack(at), totals = unpack(total), blocks = unpack(block);
  const runs = kinds.map((kind, i) => [String(i + 1), kind, blocks[i] < 0 ? '' : raw(blocks[i]), raw(times[i]), raw(totals[i]),
    {m: 'mild', s: 'severe'}[outliers[i]] || 'none']);
  const runHeadings = ['run', 'kind', 'block', 'began at', 'total', 'outlier'];
  const series = names.filter((name) => cell.metrics[name].samples).map((name) => [name, unpack(cell.metrics[name].samples)]);
  const longest = d3.max(series, (s) => s[1].length) || 0;
  const sampleHeadings = ['timed run', ...series.map((s) => s[0])];
  const sampleRows = Array.from({length: longest}, (_, i) => [String(i + 1), ...series.map((s) => raw(s[1][i]))]);
  const timed = kinds.map((kind, i) => [times[i] / 1e9, totals[i], kind]).filter((r) => r[2] === 'timed');
  if (timed.length) {
    samples.body.append(element('div', {class: 'scroll'}, lineChart([{name: 'total latency', points: timed}], {
      title: 'Total latency of each timed run of ' + nameOf(cell), dots: true, height: 220, labelX: 'seconds since the sweep began', labelY: 'total latency',
      showX: d3.format('g'), showY: format.ns})));
  }
  const steps = stepsOf(cell).map((run, i) => [String(i + 1), run.join(' ')]);
  for (const [name, head, rows] of [['All runs', runHeadings, runs], ['Samples of every metric', sampleHeadings, sampleRows],
    ['Every step of every timed run', ['timed run', 'its decode steps, ns'], steps]]) {
    if (rows.length === 0) continue;
    samples.body.append(element('details', {}, element('summary', {}, name), element('div', {class: 'tall'}, table(name, head, rows))));
    samples.tsv += '\n' + tsv(head, rows);
  }
}

// ---- responses -----------------------------------------------------------------------------------------------------

function drawResponses(shown) {
  const groups = new Map();
  for (const cell of shown) {
    if (!('said' in cell.raw) && !cell.raw.ids) continue;
    const key = [cell.model, cell.test, cell.device, cell.prompt].join('\n');
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(cell);
  }
  const most = 12, nodes = [];
  for (const group of Array.from(groups.values()).slice(0, most)) {
    const first = group[0], sides = new Map();
    for (const cell of group) {
      const text = 'said' in cell.raw ? cell.said : 'no tokenizer; ids ' + unpack(cell.raw.ids).join(' ');
      const key = cell.precision + '\n' + text;
      if (!sides.has(key)) sides.set(key, {cell, text, count: 0});
      ++sides.get(key).count;
    }
    nodes.push(element('h3', {}, [first.model, first.test, first.device].filter(Boolean).join(' · ')));
    if (first.prompt) nodes.push(element('p', {}, 'Prompt: '), element('pre', {}, first.prompt));
    nodes.push(element('div', {class: 'side'}, ...Array.from(sides.values()).map(({cell, text, count}) =>
      element('div', {}, element('h4', {}, cell.precision + (count > 1 ? ', the same in ' + count + ' records' : '')), element('pre', {}, text)))));
  }
  if (groups.size > most) nodes.push(element('p', {}, (groups.size - most) + ' more; filter to see them.'));
  by('said').replaceChildren(...(nodes.length ? nodes : [element('p', {}, 'None of these cells generated anything.')]));
}

// ---- all of it -----------------------------------------------------------------------------------------------------

function update() {
  const shown = filtered();
  by('count').textContent = shown.length + ' of ' + cells.length + ' cells' +
    (shown.some((c) => !c.usable) ? '; those that failed or are INVALID stand in the table of all cells alone' : '');
  for (const figure of figures) drawFigure(figure, shown);
  all.shown = shown.slice();
  all.page = 0;
  drawTable();
  const before = samples.select.value, most = 500;
  samples.select.replaceChildren(...shown.slice(0, most).map((c) => element('option', {value: c.index}, nameOf(c) + ' (' + c.file.split('/').pop() + ')')));
  if (shown.slice(0, most).some((c) => String(c.index) === before)) samples.select.value = before;
  drawSamples();
  drawResponses(shown);
}

by('about').textContent = cells.length + ' records, made into a page by ' + report.program + ' at ' + report.generated + '. ' +
  (withSamples ? 'Every sample is in it.' : 'It has quantiles; each figure names the files that have the samples.');
if (report.problems.length) {
  by('problems').append(element('details', {}, element('summary', {}, report.problems.length + ' files were left out'),
      element('ul', {}, ...report.problems.map((text) => element('li', {}, text)))));
}
by('licence').textContent = by('d3-licence').textContent.trim();
buildFilters();
buildFigures();
if (report.verdict.length) {
  by('figures').prepend(element('section', {id: 'verdict', 'aria-labelledby': 'verdict-h'}, element('h2', {id: 'verdict-h'}, 'Verdict'),
      element('pre', {}, report.verdict.join('\n'))));
}
buildTable();
buildSamples();
by('figures').append(element('section', {id: 'responses', 'aria-labelledby': 'responses-h'},
    element('h2', {id: 'responses-h'}, 'Responses'), element('div', {id: 'said'})));
update();
