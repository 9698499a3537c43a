'use strict';
// The figures: each takes the cells that the filters leave and gives nodes to show, the same as a table, and the cells
// that it drew. Cells that are INVALID or failed are in the table of all cells alone.

const mostBars = 40, mostLines = 8, mostPoints = 200;

function bars(id, title, about, valueOf, show, unit) {
  return {id, title, about, draw(shown) {
    const having = shown.filter((c) => c.usable && valueOf(c));
    const drawn = having.slice(0, mostBars);
    return {drawn, left: having.length - drawn.length,
      nodes: drawn.length ? [barChart(drawn, valueOf, show, title, unit)] : [],
      headings: ['cell', 'median', '95 % interval, low', 'high', 'runs', 'stamp'],
      rows: drawn.map((c) => {
        const m = valueOf(c);
        return [nameOf(c), show(m.median), show(m.low), show(m.high), String(m.runs), c.stamp];
      })};
  }};
}
const byMetric = (name) => (cell) => metric(cell, name);

// Whether nothing is at least as good in both and better in one; a baseline is not ranked.
function undominated(points, betterY) {
  const asGood = (a, b) => a.x.median >= b.x.median && betterY * a.y.median >= betterY * b.y.median;
  const ranked = points.filter((p) => !p.cell.precision.startsWith('bf16 (baseline)'));
  return ranked.filter((p) => !ranked.some((q) => q !== p && asGood(q, p) && !asGood(p, q)))
      .sort((a, b) => a.x.median - b.x.median);
}

const estimate = (row) => row && {median: row[0], low: row[1], high: row[2]};
const qualities = [
  {label: 'perplexity (lower is better)', better: -1, of: (q) => estimate(q.ppl), show: format.plain},
  {label: 'perplexity over the reference\'s (lower is better)', better: -1, of: (q) => estimate(q.ratio), show: format.plain},
  {label: 'KL divergence from the reference, nats (lower is better)', better: -1, of: (q) => estimate(q.kl), show: format.plain},
  {label: 'top-1 agreement with the reference (higher is better)', better: 1, of: (q) => estimate(q.top), show: format.share},
];
const pareto = {id: 'pareto', title: 'Speed against quality',
  about: 'The dashed line joins the cells that no other beats in both: right is faster, and what is better is said at the axis.',
  choices: qualities.map((q) => q.label),
  draw(shown, choice) {
    const {label, better, of, show} = qualities[choice];
    const having = shown.filter((c) => c.usable && c.quality && of(c.quality) && metric(c, speedOf(c)));
    const points = having.slice(0, mostPoints).map((cell) => ({cell, x: metric(cell, speedOf(cell)), y: of(cell.quality)}));
    const front = undominated(points, better);
    return {drawn: points.map((p) => p.cell), left: having.length - points.length,
      nodes: points.length ? [scatterChart(points, {title: this.title, front, showX: format.rate, showY: show,
        labelX: 'tokens per second', labelY: label})] : [],
      missing: 'None of these cells was measured with --quality.',
      headings: ['cell', 'tokens per second', label, 'beaten in both by another', 'stamp'],
      rows: points.map((p) => [nameOf(p.cell), withInterval(p.x, format.rate), withInterval(p.y, show),
        p.cell.precision.startsWith('bf16 (baseline)') ? 'not ranked' : front.includes(p) ? 'no' : 'yes', p.cell.stamp])};
  }};

// Of each step of the run, over runs: [[step, low, median, high]], or nothing.
function stepQuantiles(cell) {
  const steps = cell.raw.steps;
  if (!steps) return [];
  if (!withSamples) {
    const [at, low, middle, high] = steps.map(unpack);
    return at.map((x, i) => [x + 1, low[i], middle[i], high[i]]);
  }
  const runs = stepsOf(cell);
  const out = [];
  for (let step = 0; step < Math.max(...runs.map((r) => r.length)); ++step) {
    const values = runs.filter((r) => step < r.length).map((r) => r[step]).sort((a, b) => a - b);
    out.push([step + 1, ...[0.1, 0.5, 0.9].map((q) => d3.quantile(values, q))]);
  }
  return out;
}
function stepsOf(cell) {
  if (!cell.raw.steps) return [];
  const [counts, all] = cell.raw.steps.map(unpack);
  let from = 0;
  return counts.map((count) => all.slice(from, from += count));
}
const interToken = {id: 'inter-token', title: 'Inter-token latency over the run',
  about: 'The median over runs of each step, and the band from the 10th to the 90th percentile.',
  draw(shown) {
    const having = shown.filter((c) => c.usable && c.raw.steps);
    const drawn = having.slice(0, mostLines);
    const lines = drawn.map((c) => {
      const quantiles = stepQuantiles(c);
      return {name: nameOf(c), points: quantiles.map((q) => [q[0], q[2]]), band: quantiles.map((q) => [q[0], q[1], q[3]])};
    });
    return {drawn, left: having.length - drawn.length,
      nodes: lines.length ? [legend(lines.map((l) => l.name), true), lineChart(lines, {title: this.title, labelX: 'step of the run',
        labelY: 'time of a step', showX: d3.format('d'), showY: format.ns})] : [],
      missing: 'None of these cells has steps whose times were told.',
      headings: ['cell', 'first step', 'middle step', 'last step', '50th percentile of all steps', '99th'],
      rows: drawn.map((c, i) => {
        const points = lines[i].points, at = (k) => points.length ? format.ns(points[k][1]) : 'n/a';
        const of = (name) => withInterval(metric(c, name), format.ns);
        return [nameOf(c), at(0), at(points.length >> 1), at(points.length - 1), of('inter_token_pooled_p50'), of('inter_token_pooled_p99')];
      })};
  }};

const partNames = report.ledger.map((name) => name.replace('_', ' '));
const ledger = {id: 'ledger', title: 'Memory ledger',
  about: 'What the memory of the cell\'s process was used for, of all its devices together. “process” is what it took before the model, “other” what nothing else accounts for.',
  choices: ['at the end', 'at the peak'],
  draw(shown, choice) {
    const rowsOf = (c) => c.raw.memory.map((m) => m[choice === 1 ? 3 : 4]).filter(Boolean);
    const having = shown.filter((c) => c.usable && rowsOf(c).length);
    const drawn = having.slice(0, mostBars);
    const valuesOf = (c) => partNames.map((_, i) => d3.sum(rowsOf(c), (row) => row[i]));
    return {drawn, left: having.length - drawn.length,
      nodes: drawn.length ? [legend(partNames), stackedChart(drawn, partNames, valuesOf, format.bytes, this.title)] : [],
      missing: 'None of these records has a ledger.',
      headings: ['cell', ...partNames, 'together', 'counted by'],
      rows: drawn.map((c) => [nameOf(c), ...valuesOf(c).map(format.bytes), format.bytes(d3.sum(valuesOf(c))),
        c.raw.memory.map((m) => m[0]).join(', ')])};
  }};

const watched = [['sm_mhz', 'SM clock', 1, 'MHz'], ['memory_mhz', 'memory clock', 2, 'MHz'],
  ['temperature_celsius', 'temperature', 3, '°C'], ['power_watts', 'power', 4, 'W']];
const telemetry = {id: 'telemetry', title: 'Clocks, power and temperature',
  about: 'Of the card during the timed runs, by the time since the sweep began.',
  choices: watched.map((w) => w[1] + ', ' + w[3]),
  draw(shown, choice) {
    const [key, name, column, unit] = watched[choice];
    const having = shown.filter((c) => c.usable && c.raw.telemetry && c.raw.telemetry[key]);
    const drawn = having.slice(0, mostLines);
    const lines = [];
    for (const c of withSamples ? drawn : []) {
      const times = unpack(c.raw.telemetry.samples[0]), values = unpack(c.raw.telemetry.samples[column]);
      const points = times.map((t, i) => [t / 1e9, values[i]]).filter((p) => isFinite(p[1])).sort((a, b) => a[0] - b[0]);
      if (points.length) lines.push({name: nameOf(c), points});
    }
    return {drawn, left: having.length - drawn.length,
      nodes: lines.length ? [legend(lines.map((l) => l.name), true), lineChart(lines, {title: name, dots: true,
        labelX: 'seconds since the sweep began', labelY: unit, showX: d3.format('d'), showY: format.plain})] : [],
      missing: having.length ? 'Of so many records the page has ranges alone; the samples are in the files named.' :
        'No card was watched in these cells (a CPU, or no NVML).',
      headings: ['cell', 'least ' + unit, 'median', 'most', 'samples in'],
      rows: drawn.map((c) => [nameOf(c), ...c.raw.telemetry[key].map(format.plain), c.file])};
  }};

const figures = [
  bars('throughput', 'Throughput', 'Tokens per second of the whole generation; of pp tests of the prompt. More is better.',
      (c) => metric(c, speedOf(c)), format.rate, 'tokens per second'),
  bars('latency', 'Latency', 'Time of the whole generation. Less is better.', byMetric('total_latency'), format.ns, 'total latency'),
  bars('ttft', 'Time to first token', 'From the prompt\'s ids to the first new one. Less is better.',
      byMetric('time_to_first_token'), format.ns, 'time to first token'),
  interToken,
  bars('memory', 'Peak memory', 'The most that the cell\'s process had, loading included. Less is better.',
      byMetric('memory_peak'), format.bytes, 'peak memory'),
  ledger,
  bars('read-share', 'Share of the read peak', 'How much of what the memory can read, as measured beside the runs, a token takes.',
      (c) => c.raw.cached ? null : metric(c, 'read_share'), format.share, 'of the measured read rate'),
  pareto,
  telemetry,
];
