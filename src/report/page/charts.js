'use strict';
// Drawing, with D3: each chart is an SVG that says what it shows, to be printed, saved and read aloud.

const chartWidth = 1100;
let chartNumber = 0;

// Halves of an A/A run have the colour of their precision.
const precisionOf = (cell) => cell.precision.split(' ')[0];
const precisions = Array.from(new Set(cells.map(precisionOf)));
const colour = (i) => 'var(--c' + i % 9 + ')';
const colourOf = (cell) => colour(Math.max(0, precisions.indexOf(precisionOf(cell))));
// Told apart without colour too.
const shapes = ['circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down'];
const symbolOf = (i) => d3.svg.symbol().type(shapes[i % shapes.length]).size(64)();

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === 'class') made.className = value;
    else if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  for (const child of children) made.append(child);
  return made;
}

function newChart(height, title, description) {
  const id = 'chart' + ++chartNumber;
  const svg = d3.select(document.createElementNS('http://www.w3.org/2000/svg', 'svg'))
      .attr({viewBox: '0 0 ' + chartWidth + ' ' + height, width: chartWidth, height, role: 'img',
        'aria-labelledby': id + 't ' + id + 'd'});
  svg.append('title').attr('id', id + 't').text(title);
  svg.append('desc').attr('id', id + 'd').text(description + ' The same figures are in the table below the chart.');
  return svg;
}

function shortened(text, most) { return text.length <= most ? text : text.slice(0, most - 1) + '…'; }

function axis(svg, scale, orient, x, y, show, label, ticks) {
  const drawn = d3.svg.axis().scale(scale).orient(orient).ticks(ticks || 6).tickFormat(show).outerTickSize(0);
  if (show === format.bytes) {  // whole MiB and GiB, where decimal steps would be none
    const most = scale.domain()[1], step = Math.pow(2, Math.ceil(Math.log(most / 8) / Math.LN2));
    drawn.tickValues(d3.range(0, most * 1.0001, step));
  }
  svg.append('g').attr({class: 'axis', transform: 'translate(' + x + ',' + y + ')'}).call(drawn);
  if (!label) return;
  if (orient === 'bottom') {
    svg.append('text').attr({class: 'soft', x: scale.range()[1], y: y + 34, 'text-anchor': 'end'}).text(label);
  } else {
    svg.append('text').attr({class: 'soft', x: x - 60, y: 12}).text(label);
  }
}

function whisker(svg, x, y, low, high) {
  svg.append('path').attr({fill: 'none', stroke: 'var(--ink)', 'stroke-width': 1.5,
    d: 'M' + x(low) + ',' + (y - 4) + 'v8M' + x(low) + ',' + y + 'H' + x(high) + 'M' + x(high) + ',' + (y - 4) + 'v8'});
}

// Of each cell a bar from nought to its median, and its interval.
function barChart(shown, valueOf, show, title, unit) {
  const left = 430, right = 250, row = 22;
  const height = shown.length * row + 46;
  const svg = newChart(height, title, 'A bar for each of ' + shown.length + ' cells.');
  const most = d3.max(shown, (c) => Math.max(valueOf(c).median, valueOf(c).high || 0)) || 1;
  const x = d3.scale.linear().domain([0, most]).range([left, chartWidth - right]).nice();
  shown.forEach((cell, i) => {
    const m = valueOf(cell), y = i * row + row / 2;
    const g = svg.append('g');
    g.append('title').text(nameOf(cell) + ': ' + withInterval(m, show) + ', ' + cell.stamp);
    g.append('text').attr({x: left - 8, y: y + 4, 'text-anchor': 'end'}).text(shortened(labelOf(cell), 64));
    g.append('rect').attr({x: left, y: y - 8, width: Math.max(0, x(m.median) - left), height: 16, fill: colourOf(cell),
      'fill-opacity': 0.8});
    if (typeof m.low === 'number') whisker(g, x, y, m.low, m.high);
    g.append('text').attr({x: chartWidth - right + 10, y: y + 4})
        .text(withInterval(m, show) + (cell.stamp === 'VALID' ? '' : ' *'));
  });
  axis(svg, x, 'bottom', 0, shown.length * row + 4, show, unit);
  return svg.node();
}

// parts: names; valuesOf: of a cell, a number for each of them.
function stackedChart(shown, parts, valuesOf, show, title) {
  const left = 430, right = 110, row = 24;
  const svg = newChart(shown.length * row + 46, title, 'A bar for each of ' + shown.length + ' cells, in parts.');
  const sum = (cell) => d3.sum(valuesOf(cell), (v) => Math.max(0, v));
  const x = d3.scale.linear().domain([0, d3.max(shown, sum) || 1]).range([left, chartWidth - right]).nice();
  shown.forEach((cell, i) => {
    let from = 0;
    const y = i * row + row / 2;
    svg.append('text').attr({x: left - 8, y: y + 4, 'text-anchor': 'end'}).text(shortened(labelOf(cell), 64));
    valuesOf(cell).forEach((value, part) => {
      if (value <= 0) return;
      svg.append('rect').attr({x: x(from), y: y - 9, width: x(from + value) - x(from), height: 18, fill: colour(part),
        stroke: 'var(--ground)'})
          .append('title').text(nameOf(cell) + ', ' + parts[part] + ': ' + show(value));
      from += value;
    });
    svg.append('text').attr({x: x(from) + 6, y: y + 4}).text(show(d3.sum(valuesOf(cell))));
  });
  axis(svg, x, 'bottom', 0, shown.length * row + 4, show);
  return svg.node();
}

// lines: {name, points: [[x, y]], band: [[x, low, high]] or nothing}; each with a colour and a dash of its own.
const dashes = ['', '7 3', '2 3', '9 3 2 3', '4 2', '1 2', '12 4', '6 2 2 2'];
function lineChart(lines, options) {
  const height = options.height || 300, left = 90, bottom = 44;
  const svg = newChart(height, options.title, lines.length + ' lines: ' + lines.map((l) => l.name).join('; ') + '.');
  const all = [].concat(...lines.map((l) => l.points));
  const ys = [].concat(all.map((p) => p[1]), ...lines.map((l) => [].concat(...(l.band || []).map((b) => [b[1], b[2]]))));
  const extent = d3.extent(ys);
  const pad = (extent[1] - extent[0]) * 0.06 || Math.abs(extent[1]) * 0.02 || 1;
  const x = d3.scale.linear().domain(d3.extent(all, (p) => p[0])).range([left, chartWidth - 20]);
  const y = d3.scale.linear().domain([options.fromZero ? 0 : extent[0] - pad, extent[1] + pad]).range([height - bottom, 18]);
  lines.forEach((line, i) => {
    if (line.band) {
      svg.append('path').attr({fill: colour(i), 'fill-opacity': 0.15,
        d: d3.svg.area().x((b) => x(b[0])).y0((b) => y(b[1])).y1((b) => y(b[2]))(line.band)});
    }
    svg.append('path').attr({fill: 'none', stroke: colour(i), 'stroke-width': 1.8, 'stroke-dasharray': dashes[i % 8],
      d: d3.svg.line().x((p) => x(p[0])).y((p) => y(p[1]))(line.points)}).append('title').text(line.name);
    if (line.points.length === 1 || options.dots) {
      for (const p of line.points) svg.append('circle').attr({cx: x(p[0]), cy: y(p[1]), r: 2.2, fill: colour(i)});
    }
  });
  axis(svg, x, 'bottom', 0, height - bottom, options.showX || d3.format('s'), options.labelX);
  axis(svg, y, 'left', left, 0, options.showY, options.labelY, 5);
  return svg.node();
}

// points: {cell, x, y} of metrics with intervals. front: those that nothing beats in both, joined.
function scatterChart(points, options) {
  const height = 420, left = 90, bottom = 44;
  const svg = newChart(height, options.title, points.length + ' points.');
  const ends = (m) => [m.median, typeof m.low === 'number' ? m.low : m.median, typeof m.high === 'number' ? m.high : m.median];
  const domain = (of) => {
    const [low, high] = d3.extent([].concat(...points.map((p) => ends(p[of]))));
    const pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
    return [low - pad, high + pad];
  };
  const x = d3.scale.linear().domain(domain('x')).range([left, chartWidth - 200]);
  const y = d3.scale.linear().domain(domain('y')).range([height - bottom, 20]);
  if (options.front.length > 1) {
    svg.append('path').attr({fill: 'none', stroke: 'var(--soft)', 'stroke-dasharray': '4 3',
      d: d3.svg.line().x((p) => x(p.x.median)).y((p) => y(p.y.median))(options.front)});
  }
  for (const p of points) {
    const g = svg.append('g');
    g.append('title').text(nameOf(p.cell) + ': ' + withInterval(p.x, options.showX) + '; ' + withInterval(p.y, options.showY));
    const [, xl, xh] = ends(p.x), [, yl, yh] = ends(p.y);
    g.append('path').attr({stroke: colourOf(p.cell), 'stroke-width': 1.5, fill: 'none',
      d: 'M' + x(xl) + ',' + y(p.y.median) + 'H' + x(xh) + 'M' + x(p.x.median) + ',' + y(yl) + 'V' + y(yh)});
    g.append('path').attr({d: symbolOf(precisions.indexOf(precisionOf(p.cell))), fill: colourOf(p.cell),
      transform: 'translate(' + x(p.x.median) + ',' + y(p.y.median) + ')'});
    g.append('text').attr({x: x(p.x.median) + 9, y: y(p.y.median) - 6}).text(shortened(p.cell.precision + ' ' + p.cell.model, 34));
  }
  axis(svg, x, 'bottom', 0, height - bottom, options.showX, options.labelX);
  axis(svg, y, 'left', left, 0, options.showY, options.labelY, 6);
  return svg.node();
}

function legend(names, dashed) {
  return element('ul', {class: 'legend'}, ...names.map((name, i) => {
    const item = element('li');
    const mark = d3.select(item).append('svg').attr({width: 26, height: 12, 'aria-hidden': 'true'});
    if (dashed) mark.append('path').attr({d: 'M0,6H26', stroke: colour(i), 'stroke-width': 2.5, 'stroke-dasharray': dashes[i % 8]});
    else mark.append('rect').attr({width: 16, height: 12, fill: colour(i)});
    item.append(name);
    return item;
  }));
}

// The chart as a file of its own: colours as they are now, nothing that needs this page.
function standalone(svg) {
  const style = getComputedStyle(document.documentElement);
  const colourNow = (name) => style.getPropertyValue(name).trim();
  const rules = '<style>svg{font:12px sans-serif;background:' + colourNow('--ground') + '}text{fill:' + colourNow('--ink') +
    '}.axis path,.axis line{fill:none;stroke:' + colourNow('--line') + '}</style>';
  return new XMLSerializer().serializeToString(svg).replace(/var\((--\w+)\)/g, (_, name) => colourNow(name))
      .replace(/<svg[^>]*>/, (open) => open + rules);
}

function save(blob, name) {
  const link = element('a', {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function saveSvg(svg, name) { save(new Blob([standalone(svg)], {type: 'image/svg+xml'}), name + '.svg'); }

function savePng(svg, name) {
  const scale = 2, box = svg.viewBox.baseVal;  // for print
  const picture = new Image();
  picture.onload = () => {
    const canvas = element('canvas', {width: box.width * scale, height: box.height * scale});
    const context = canvas.getContext('2d');
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--ground').trim();
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(blob, name + '.png'));
  };
  picture.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(standalone(svg));
}
