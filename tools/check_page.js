'use strict';
// Run by tools/check_page.sh behind the page's own scripts, with the records themselves in `records`: what the page shows
// is what they say. Puts what is wrong, or "page: fine", into the element #check.
(async () => {
  const wrong = [];
  const expect = (ok, text) => { if (!ok) wrong.push(text); };
  const rows = () => Array.from(document.querySelectorAll('#table tbody tr'));
  const heading = (name) => Array.from(document.querySelectorAll('#table thead th')).findIndex((th) => th.textContent === name);
  const at = (row, name) => row.children[heading(name)].textContent;
  const change = (box, checked) => { box.checked = checked; box.dispatchEvent(new Event('change', {bubbles: true})); };

  expect(records.length === cells.length && rows().length === records.length, 'not every record is a row');
  const open = document.querySelector('#samples select');
  records.forEach((record, i) => {
    const name = record.cell.model.name + ' ' + record.cell.precision;
    const speed = record.metrics.tokens_per_second;
    const row = rows().find((r) => r.dataset.cell === String(i));
    expect(at(row, 'precision').startsWith(record.cell.precision), name + ': another precision');
    expect(at(row, 'stamp') === record.outcome.stamp, name + ': another stamp');
    expect(at(row, 'tokens per second').startsWith(format.rate(speed.median)), name + ': another speed in the table');
    expect(Math.abs(parseFloat(at(row, 'tokens per second')) / speed.median - 1) < 1e-3, name + ': the table rounds wrongly');
    let compared = 0;
    for (const [key, metric] of Object.entries(record.metrics)) {
      if (!metric) continue;
      const shown = cells[i].metrics[key];
      expect(shown && shown.median === metric.median, name + ': ' + key + ' has another median');
      if (!metric.samples) continue;
      expect(JSON.stringify(unpack(shown.samples)) === JSON.stringify(metric.samples), name + ': ' + key + ' has other samples');
      ++compared;
    }
    expect(compared > 5, name + ': no samples were compared');
    open.value = String(i);
    open.dispatchEvent(new Event('change'));
    const said = document.getElementById('samples').textContent;
    for (const run of record.runs) expect(said.includes(String(run.total_ns)), name + ': a run of ' + run.total_ns + ' ns is not to be found');
    const steps = record.runs[0].spans.filter((s) => s[0] === 'decode' && s[1] === 'host');
    if (steps.length > 1) {
      const last = steps[steps.length - 1];
      expect(said.includes(String(last[3] - last[2])), name + ': a step is not to be found');
    }
    if (record.response.text) {
      expect(Array.from(document.querySelectorAll('#said pre')).some((pre) => pre.textContent === record.response.text), name + ': no response');
    }
  });

  // Filters: one precision less is its rows less, in table and charts; all of none is nothing, and says so.
  const boxes = Array.from(document.querySelectorAll('#filters input[name=precision]'));
  expect(boxes.length > 1, 'one precision alone: nothing to filter');
  const shown = (cell) => cell.precision + (cell.aa_half ? ' ' + cell.aa_half : '');
  const ofFirst = records.filter((r) => shown(r.cell) === boxes[0].value).length;
  const bars = () => document.querySelectorAll('#throughput svg[role=img] rect').length;
  const before = bars();
  change(boxes[0], false);
  expect(rows().length === records.length - ofFirst, 'a filter leaves ' + rows().length + ' rows');
  expect(rows().every((r) => at(r, 'precision') !== boxes[0].value), 'a filter leaves what it should take');
  expect(bars() === before - ofFirst, 'the chart has ' + bars() + ' bars behind a filter');
  for (const box of boxes) change(box, false);
  expect(rows().length === 0, 'rows without a precision');
  for (const box of boxes) change(box, true);
  expect(rows().length === records.length, 'filters do not come back');

  // Each value of each filter alone, as the records have it.
  const ofRecord = {
    model: (c) => c.model.name + (c.model.weights === 'random' ? ' (random)' : ''), precision: shown, batch: (c) => c.batch,
    context: (c) => (c.depth || 0) + (c.prompt_tokens || 0), test: (c) => c.test,
  };
  for (const [name, of] of Object.entries(ofRecord)) {
    const all = Array.from(document.querySelectorAll('#filters input[name=' + name + ']'));
    expect(new Set(records.map((r) => String(of(r.cell)))).size === all.length, 'the filter ' + name + ' has ' + all.length + ' values');
    for (const box of all) {
      for (const other of all) other.checked = other === box;
      change(box, true);
      const expected = records.map((r, i) => String(of(r.cell)) === box.value ? String(i) : '').filter(Boolean);
      expect(rows().map((r) => r.dataset.cell).join() === expected.join(), 'the filter ' + name + ' = ' + box.value + ' shows other rows');
    }
    for (const box of all) box.checked = true;
    change(all[0], true);
  }

  // What is copied, by the clipboard or without one, says what the records say.
  let copied = '';
  const near = (text, value) => Math.abs(parseFloat(text) / value - 1) < 1e-3;
  const lines = () => copied.trim().split('\n').map((line) => line.split('\t'));
  const button = (id, label) => Array.from(document.querySelectorAll('#' + id + ' .controls button')).find((b) => b.textContent === label);
  const press = (id, label) => button(id, label).click();
  const checkTable = (how) => {
    const [head, ...copiedRows] = lines();
    expect(copiedRows.length === records.length, how + ': ' + copiedRows.length + ' rows are copied');
    copiedRows.forEach((row, i) => {
      expect(row.length === head.length, how + ': a copied row has ' + row.length + ' columns');
      expect(row[head.indexOf('precision')].startsWith(records[i].cell.precision), how + ': another precision is copied');
      expect(near(row[head.indexOf('tokens per second')], records[i].metrics.tokens_per_second.median), how + ': another speed is copied');
    });
  };
  document.execCommand = () => { copied = document.activeElement.value; return true; };
  Object.defineProperty(navigator, 'clipboard', {configurable: true, value: undefined});
  const copyTable = button('table', 'Copy table');  // it says "Copied" for a while
  copyTable.click();
  checkTable('without a clipboard');
  copied = '';
  Object.defineProperty(navigator, 'clipboard', {value: {writeText: (text) => { copied = text; return Promise.resolve(); }}});
  copyTable.click();
  checkTable('by the clipboard');
  press('ttft', 'Copy figures');
  const nanoseconds = {ns: 1, µs: 1e3, ms: 1e6, s: 1e9};
  lines().slice(1).forEach((row, i) => {
    const [number, unit] = row[1].split(' ');
    expect(near(number * nanoseconds[unit], records[i].metrics.time_to_first_token.median), 'another time to first token is copied');
  });
  open.value = '0';
  open.dispatchEvent(new Event('change'));
  press('samples', 'Copy samples');
  for (const value of records[0].metrics.total_latency.samples) expect(copied.includes('\t' + value), 'a sample of ' + value + ' is not copied');

  // Charts as files: SVG that is XML and has the figures, PNG of its size.
  const saved = [];
  save = (blob, name) => saved.push({blob, name});
  const withFigures = records.filter((r) => r.outcome.status === 'ok' && r.outcome.stamp !== 'INVALID' && r.metrics.tokens_per_second);
  press('throughput', 'Save SVG');
  press('throughput', 'Save PNG');
  const svg = new DOMParser().parseFromString(await saved[0].blob.text(), 'image/svg+xml');
  expect(saved[0].name === 'throughput.svg' && svg.documentElement.nodeName === 'svg', 'no SVG is saved');
  expect(!svg.documentElement.outerHTML.includes('var('), 'a saved chart has colours of the page');
  const texts = Array.from(svg.querySelectorAll('text')).map((t) => t.textContent);
  for (const r of withFigures.slice(0, 40)) {
    expect(texts.some((t) => t.startsWith(format.rate(r.metrics.tokens_per_second.median))), 'a saved chart lacks ' + r.metrics.tokens_per_second.median);
  }
  for (let i = 0; i < 100 && saved.length < 2; ++i) await new Promise((resolve) => setTimeout(resolve, 50));
  if (saved.length === 2) {
    const bytes = new DataView(await saved[1].blob.arrayBuffer()), box = document.querySelector('#throughput svg[role=img]').viewBox.baseVal;
    expect(bytes.getUint32(0) === 0x89504e47 && bytes.getUint32(16) === 2 * box.width && bytes.getUint32(20) === 2 * box.height, 'no PNG of the chart\'s size is saved');
  } else {
    expect(false, 'no PNG is saved');
  }

  // Sorting.
  const sorter = document.querySelectorAll('#table thead button')[heading('tokens per second')];
  const speeds = () => rows().map((r) => cells[Number(r.dataset.cell)].metrics.tokens_per_second.median);
  sorter.click();
  expect(speeds().every((v, i, all) => i === 0 || all[i - 1] <= v), 'not sorted');
  sorter.click();
  expect(speeds().every((v, i, all) => i === 0 || all[i - 1] >= v), 'not sorted the other way');
  expect(sorter.parentNode.getAttribute('aria-sort') === 'descending', 'sorting is not told to a screen reader');

  // Every chart has a name, a description and a table.
  for (const svg of document.querySelectorAll('svg[role=img]')) {
    const named = svg.getAttribute('aria-labelledby').split(' ').every((id) => document.getElementById(id).textContent);
    expect(named && svg.closest('section').querySelector('table'), 'a chart without words');
  }
  expect(document.querySelectorAll('svg[role=img]').length >= 6, 'charts are missing');
  document.body.append(element('pre', {id: 'check'}, wrong.length ? wrong.join('\n') : 'page: fine'));
})();
