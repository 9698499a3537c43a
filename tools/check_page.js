'use strict';
// Run by tools/check_page.sh behind the page's own scripts, with the records themselves in `records`: what the page shows
// is what they say. Puts what is wrong, or "page: fine", into the element #check.
(() => {
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
