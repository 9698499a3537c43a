#include "report/report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/format.h"
#include "report/test_record.h"

namespace quantbench {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

Summary series(std::string name, Unit unit, Better better, double median, double half_width) {
  Summary s{std::move(name), unit, better, 10, median, median - half_width, median + half_width, 0.9785};
  for (int i = 0; i < 10; ++i) s.samples.push_back(median + half_width * (i - 4.5) / 4.5);
  return s;
}
Summary figure(std::string name, double value) { return {std::move(name), Unit::bytes, Better::lower, 0, value}; }

RecordView view(const std::string& precision, double rate, double half_width, double peak_gib) {
  RecordView v;
  v.model = "org/model";
  v.precision = precision;
  v.precision_long = precision + ", long, name";
  v.test = "p8+n64";
  v.kind = "generation";
  v.prompt_tokens = 8;
  v.new_tokens = 64;
  v.status = "ok";
  v.response_text = "text of " + precision;
  v.response_ids.assign(64, 7);
  v.metrics = {
      series("total_latency", Unit::nanoseconds, Better::lower, 64e9 / rate, 64e9 / rate * half_width / rate),
      series("latency_per_token", Unit::nanoseconds, Better::lower, 1e9 / rate, 0),
      series("time_to_first_token", Unit::nanoseconds, Better::lower, 10e9 / rate, 10e9 / rate * half_width / rate),
      series("inter_token_median", Unit::nanoseconds, Better::lower, 0.9e9 / rate, 0),
      series("tokens_per_second", Unit::per_second, Better::higher, rate, half_width),
      series("read_share", Unit::fraction, Better::higher, 0.914, 0.01),
      figure("weight_bytes", peak_gib * 0.9 * (1 << 30)),
      figure("memory_start", 1 << 24),
      figure("memory_peak", peak_gib * (1 << 30)),
      figure("memory_end", peak_gib * 0.95 * (1 << 30))};
  return v;
}

std::vector<RecordView> three() {
  return {view("fp16", 14.26, 0.1, 2.5), view("int8", 22.5, 0.1, 1.5), view("4bit", 35, 0.2, 1.1)};
}

TEST(Format, KeepsFourDigits) {
  EXPECT_EQ(format_rate(14.2567), "14.26");
  EXPECT_EQ(format_rate(812.34), "812.3");
  EXPECT_EQ(format_rate(12345.6), "12346");
  EXPECT_EQ(format_rate(0.5), "0.500");
  EXPECT_EQ(format_ns(1.21e6), "1.210 ms");
  EXPECT_EQ(format_ns(950), "0.950 µs");
  EXPECT_EQ(format_ns(2.5e9), "2.500 s");
  EXPECT_EQ(format_bytes(14.2 * 1024 * 1024), "14.2 MiB");
  EXPECT_EQ(format_bytes(512), "512 B");
}

TEST(Format, AlignsByCharactersNotBytes) {
  Grid g({"a", "b"}, {Grid::Align::right, Grid::Align::left});
  g.add({"± 1", "x"});
  g.add({"12345", "y"});
  EXPECT_EQ(g.text(), "    a  b\n--------\n  ± 1  x\n12345  y\n");
}

TEST(Format, ResponsesCannotSteerTheTerminal) {
  EXPECT_EQ(printable("a\x1b[31mb\nc\x7f"), "a<U+001B>[31mb\nc<U+007F>");
  EXPECT_EQ(printable("\xc2\x9b"), "<U+009B>");
  EXPECT_EQ(printable("été ✓"), "été ✓");
}

TEST(Table, HasEveryColumn) {
  const std::string text = table_text(three());
  EXPECT_THAT(text, HasSubstr("model      precision"));
  EXPECT_THAT(text, HasSubstr("14.26 ± 0.100"));
  EXPECT_THAT(text, HasSubstr("2.50 GiB"));
  EXPECT_THAT(text, HasSubstr("91.4 %"));
  EXPECT_THAT(text, HasSubstr("VALID"));
  EXPECT_THAT(table_markdown(three()), HasSubstr("| org/model | int8 |"));
}

TEST(Table, NamesEngineAndDeviceWhereTheyDifferAndElseIsNarrow) {
  auto views = three();
  for (RecordView& v : views) {
    v.device = "Some GPU";
    v.engine = "graph";
  }
  views[2].engine = "none";  // it failed
  EXPECT_THAT(table_text(views), AllOf(Not(HasSubstr("graph")), Not(HasSubstr("device"))));
  views[2].engine = "persistent";
  EXPECT_THAT(table_markdown(views), AllOf(HasSubstr("| test | engine | t/s |"), HasSubstr("| p8+n64 | persistent |"),
                                           Not(HasSubstr("device"))));
  views[1].device = "Some CPU";
  EXPECT_THAT(table_markdown(views),
              AllOf(HasSubstr("| test | device | engine | t/s |"), HasSubstr("| p8+n64 | Some CPU | graph |")));
  views[1].stamp = {StampKind::flagged, {"a reason"}, {"a reason"}};
  EXPECT_THAT(notes(views), ElementsAre("org/model int8 p8+n64 Some CPU graph: FLAGGED: a reason"));
}

TEST(Table, ShowsWhatTheHostSawBetweenTokensWhereItLooked) {
  auto views = three();
  EXPECT_THAT(table_markdown(views), Not(HasSubstr("host p50")));
  views[1].host_tokens = true;
  views[1].metrics.push_back({"inter_token_host_median", Unit::nanoseconds, Better::lower, 10, 12'345});
  EXPECT_THAT(table_markdown(views), AllOf(HasSubstr("| inter-token p50 | host p50 | mem peak |"),
                                           HasSubstr("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---|"),
                                           HasSubstr(" | 12.35 µs | "), HasSubstr(" | n/a | ")));
}

TEST(Table, ModelsInTheCacheShowNoShare) {
  auto views = three();
  views[0].in_cache = true;
  EXPECT_THAT(table_text(views), HasSubstr("in cache"));
}

TEST(Table, SaysWhyACardsReadRateHasNoShare) {
  auto views = three();
  views[1].best_and_known_read = {4.513e12, 4.58e12};
  EXPECT_THAT(notes(views), Contains("org/model int8 p8+n64: no share of the read peak: beside it memory was read at "
                                     "4.51 TB/s at the most, and this card is known for 4.58 TB/s"));
}

TEST(Table, JoulesAreThereEstimatedOrNotKnown) {
  auto views = three();
  views[1].metrics.push_back({"joules_per_token", Unit::joules, Better::lower, 0, 0.01234});
  views[2].metrics.push_back({"joules_per_token", Unit::joules, Better::lower, 0, 1.5678});
  views[2].energy_estimated = true;
  const std::string text = table_markdown(views);
  EXPECT_THAT(text, HasSubstr("| % read peak | J/token | stamp |"));
  EXPECT_THAT(text,
              AllOf(HasSubstr("| n/a | VALID |"), HasSubstr("| 0.0123 | VALID |"), HasSubstr("| ≈ 1.57 | VALID |")));
}

TEST(Table, FailedCellsAreRowsWithTheirReason) {
  auto views = three();
  views[1].status = "failed";
  views[1].error = "the worker process ended with signal 9";
  views[1].metrics.clear();
  views[2].stamp = {StampKind::flagged, {"interval target missed"}};
  EXPECT_THAT(table_text(views), HasSubstr("failed"));
  EXPECT_THAT(notes(views), ElementsAre("org/model int8 p8+n64: failed: the worker process ended with signal 9",
                                        "org/model 4bit p8+n64: FLAGGED: interval target missed"));
}

TEST(Table, OfAnInvalidCellOnlyWhatMakesItSoIsSaidTo) {
  auto views = three();
  views[0].stamp = {StampKind::invalid, {"non-finite logits", "9 runs, fewer than 10"}, {"9 runs, fewer than 10"}};
  EXPECT_THAT(notes(views), ElementsAre("org/model fp16 p8+n64: INVALID: non-finite logits",
                                        "org/model fp16 p8+n64: FLAGGED: 9 runs, fewer than 10"));
}

TEST(MemoryNotes, ShowEveryDifference) {
  auto views = three();
  EXPECT_THAT(memory_notes(views), SizeIs(0)) << "of records without";
  constexpr int64_t kMiB = 1 << 20;
  views[0].memory = {{"resident pages", 24 * kMiB, 23 * kMiB}};
  views[1].memory = {{"driver", 100 * kMiB, 101 * kMiB, true, 100 * kMiB, 300 * kMiB, 299 * kMiB}};
  views[2].memory = {{"allocations", 100 * kMiB, 99 * kMiB, true}};
  EXPECT_THAT(
      memory_notes(views),
      ElementsAre("org/model fp16 p8+n64: memory at the end: 23.0 MiB by use, 24.0 MiB by resident pages (+1.0 MiB)",
                  "org/model int8 p8+n64: memory at the end: 101.0 MiB by use, 100.0 MiB by driver (-1.0 MiB); the "
                  "driver counts 100.0 MiB (-1.0 MiB) of the process, 300.0 MiB (+199.0 MiB) of all on the device; of "
                  "that 299.0 MiB (+198.0 MiB) are not free",
                  "org/model 4bit p8+n64: memory at the end: 99.0 MiB by use, 100.0 MiB by allocations (+1.0 MiB); the "
                  "driver counts n/a of the process, n/a of all on the device; of that n/a are not free"));
}

TEST(PictureNotes, TellDecodingAndResizingApart) {
  auto views = three();
  EXPECT_THAT(picture_notes(views), SizeIs(0));
  EXPECT_THAT(csv(views, CsvSchema::own),
              AllOf(HasSubstr(",picture_decode_ns,picture_resize_ns\n"), HasSubstr(",,\n")));
  views[1].picture = PictureView{640, 427, 224, 3.1e6, 4.1e5};
  const std::string line =
      "org/model int8 p8+n64: picture: 3.100 ms to decode (640 × 427 pixels), 410.0 µs to resize (to 224 × 224); "
      "before "
      "the runs, no part of them";
  EXPECT_THAT(picture_notes(views), ElementsAre(line));
  EXPECT_THAT(whole_text(views, false), HasSubstr("\n" + line + "\n"));
  EXPECT_THAT(whole_text(views, true), HasSubstr("\n- " + line + "\n"));
  EXPECT_THAT(csv(views, CsvSchema::own), HasSubstr(",3100000,410000\n"));
}

TEST(Table, ANameStaysInItsLine) {
  auto views = three();
  for (RecordView& v : views) v.model = "two\nlines\tand a tab";
  views[1].stamp = {StampKind::flagged, {"a reason"}, {"a reason"}};
  EXPECT_THAT(table_text(views), HasSubstr("two<U+000A>lines<U+0009>and a tab  fp16"));
  EXPECT_THAT(notes(views), ElementsAre("two<U+000A>lines<U+0009>and a tab int8 p8+n64: FLAGGED: a reason"));
  EXPECT_THAT(responses_text(views), HasSubstr("two<U+000A>lines<U+0009>and a tab fp16:\n"));
  EXPECT_EQ(verdict(views)[0], "two<U+000A>lines<U+0009>and a tab, p8+n64:");
}

TEST(Responses, AreGivenForEachPrecisionOrAsIds) {
  auto views = three();
  EXPECT_THAT(responses_text(views), HasSubstr("org/model 4bit:\ntext of 4bit\n"));
  views[0].response_text.reset();
  EXPECT_THAT(responses_text(views), HasSubstr("no tokenizer; ids 7 7 7 7 7 7 7 7 …"));
}

TEST(Responses, OfABatchAreThoseOfItsFirstSequence) {
  auto views = three();
  views.resize(1);
  views[0].test = "p8+n2 @ d3 b32";
  views[0].depth = 3;
  views[0].batch = 32;
  views[0].response_text.reset();
  EXPECT_EQ(responses_text(views), "org/model fp16 p8+n2 @ d3 b32:\nno tokenizer; ids 7 7\n\n");
}

TEST(Responses, AreCodeInMarkdownWhateverTheyHold) {
  auto views = three();
  views.resize(1);
  views[0].response_text = "# no heading\n* no list";
  EXPECT_EQ(responses_markdown(views), "org/model fp16:\n\n```text\n# no heading\n* no list\n```\n\n");
  views[0].response_text = "```cpp\n````\n";
  EXPECT_THAT(responses_markdown(views), HasSubstr("\n`````text\n```cpp\n````\n\n`````\n"));
}

TEST(Table, SaysWhichWeightsAreRandom) {
  auto views = three();
  EXPECT_THAT(table_text(views), Not(HasSubstr("random")));
  for (RecordView& v : views) v.random_weights = true;
  EXPECT_THAT(table_text(views), HasSubstr("org/model (random)  fp16"));
  EXPECT_THAT(table_markdown(views), HasSubstr("| org/model (random) | int8 |"));
  views[0].stamp = {StampKind::flagged, {"a reason"}, {"a reason"}};
  EXPECT_THAT(notes(views), ElementsAre("org/model (random) fp16 p8+n64: FLAGGED: a reason"));
  EXPECT_THAT(responses_text(views), HasSubstr("org/model (random) int8:\n"));
  EXPECT_EQ(verdict(views)[0], "org/model (random), p8+n64:");
}

TEST(Verdict, NamesFastestSmallestAndWhoBeatsWhom) {
  const auto lines = verdict(three());
  ASSERT_THAT(lines, SizeIs(5));
  EXPECT_THAT(lines[1], HasSubstr("fastest: 4bit (2.45 × fp16 [2.4"));
  EXPECT_THAT(lines[2], HasSubstr("smallest: 4bit (peak memory: fp16 2.50 GiB"));
  EXPECT_THAT(lines[4], HasSubstr("4bit beats fp16 in everything measured"));
  EXPECT_THAT(lines[4], HasSubstr("int8 beats fp16 in everything measured"));
  EXPECT_THAT(lines[4], HasSubstr("not quality"));
}

TEST(Verdict, MostExactIsWhoseDivergenceIsSurelyLeast) {
  auto views = three();
  EXPECT_EQ(verdict(views)[3], "  most exact: undecided: quality was not measured (run --quality)");
  const auto judge = [&](size_t i, double divergence, double half) {
    views[i].quality = QualityView{.text_name = "a text", .tokens = 9, .reference = "fp16 of this run"};
    views[i].quality->kl_mean = Estimate{divergence, divergence - half, divergence + half};
  };
  judge(1, 0.002, 0.0005);
  EXPECT_EQ(verdict(views)[3], "  most exact: undecided: quality was not measured of fp16, 4bit");
  views[0].quality = QualityView{.text_name = "a text", .tokens = 9};
  judge(2, 0.1, 0.02);
  EXPECT_EQ(
      verdict(views)[3],
      "  most exact: fp16, by which the others are judged; then int8 (mean divergence from fp16 in nats: int8 0.002 ± "
      "0.0005, 4bit 0.1 ± 0.02)");
  judge(2, 0.003, 0.0006);
  EXPECT_THAT(verdict(views)[3], HasSubstr("then undecided between int8 and 4bit (mean"));
  EXPECT_THAT(verdict(std::span(views).first(2))[3], HasSubstr("most exact: fp16, by which int8 is judged (mean"));
  EXPECT_THAT(verdict(std::span(views).last(2))[3], HasSubstr("most exact: undecided between int8 and 4bit (mean"));
  views[2].quality->tokens = 8;
  EXPECT_THAT(verdict(views)[3], HasSubstr("undecided: compared with different references or on different texts"));
}

TEST(Verdict, Bf16IsABaselineAndWinsNothing) {
  auto views = three();
  views.insert(views.begin(), view("bf16", 1000, 1, 0.5));
  auto lines = verdict(views);
  ASSERT_THAT(lines, SizeIs(5));
  EXPECT_THAT(lines[0], HasSubstr("(bf16 is a baseline, not ranked):"));
  EXPECT_THAT(lines[1], HasSubstr("fastest: 4bit (2.45 × fp16 [2.4"));
  for (size_t i = 1; i < lines.size(); ++i) EXPECT_THAT(lines[i], Not(HasSubstr("bf16")));
  EXPECT_THAT(table_text(views), HasSubstr("bf16 (baseline)"));
  views[0].imported_from = "another program";
  EXPECT_EQ(verdict(views), lines) << "beside fp16";
  EXPECT_THAT(table_text(views), Not(HasSubstr("baseline")));
  views.erase(views.begin() + 1);
  EXPECT_THAT(verdict(views)[1], HasSubstr("fastest: bf16")) << "the only half precision that the program has";
  EXPECT_THAT(verdict(std::vector<RecordView>{view("bf16", 100, 1, 2), view("fp16", 100, 1, 2)}),
              ElementsAre(HasSubstr("no verdict: one precision alone beside bf16, a baseline")));
  EXPECT_THAT(verdict(std::vector<RecordView>{view("bf16", 100, 1, 2)}), SizeIs(0));
}

TEST(Verdict, WhatNoiseMayMakeIsUndecided) {
  auto views = three();
  views[1] = view("int8", 34, 2, 1.5);
  const auto lines = verdict(views);
  EXPECT_THAT(lines[1], HasSubstr("fastest: undecided between 4bit and int8: too close for their noise (4bit is "));
  EXPECT_THAT(lines[4], AllOf(Not(HasSubstr("4bit beats int8")), HasSubstr("4bit beats fp16")));
}

TEST(Verdict, ADifferenceBelowTheThresholdIsNoneHoweverSureItIs) {
  auto views = three();
  views[1] = view("int8", 34.7, 0.02, 1.5);
  views[2] = view("4bit", 35, 0.02, 1.1);
  const auto lines = verdict(views);
  EXPECT_THAT(lines[1], HasSubstr("fastest: 4bit and int8, the same within 2 % (4bit is 2.45 × fp16"));
  EXPECT_THAT(lines[1], HasSubstr("1.01 × int8 [1.01, 1.01]"));
  EXPECT_THAT(lines[4], Not(HasSubstr("4bit beats int8")));
}

TEST(Verdict, ClaimsLessOfManyCellsThanOfFew) {
  std::vector<RecordView> views{view("fp16", 100, 7, 2.5), view("int8", 107, 7, 1.5)};
  EXPECT_THAT(verdict(views)[1], HasSubstr("fastest: int8"));
  for (int i = 0; i < 60; ++i) {
    for (RecordView v : {view("fp16", 100, 1, 2.5), view("int8", 100, 1, 1.5)}) {
      v.test = fmt::format("p8+n{}", i);
      views.push_back(v);
    }
  }
  EXPECT_THAT(verdict(views)[1], HasSubstr("fastest: undecided between int8 and fp16"));
}

TEST(Verdict, InvalidCellsDoNotEnter) {
  auto views = three();
  views[2].stamp.kind = StampKind::invalid;
  EXPECT_THAT(verdict(views)[1], HasSubstr("fastest: int8"));
  views[1].status = "failed";
  EXPECT_THAT(verdict(views), ElementsAre("org/model, p8+n64: no verdict: 1 of 3 cells can be compared (int8: "
                                          "INVALID, failed; 4bit: INVALID)"));
}

TEST(Verdict, SaysWhyNothingCanBeCompared) {
  auto views = three();
  for (RecordView& v : views) {
    v.status = "interrupted";
    v.stamp.kind = StampKind::invalid;
  }
  views.pop_back();
  EXPECT_THAT(verdict(views), ElementsAre("org/model, p8+n64: no verdict: 0 of 2 cells can be compared (fp16: "
                                          "INVALID, interrupted; int8: INVALID, interrupted)"));
  views = {view("fp16", 14.26, 0.1, 2.5), view("int8", 22.5, 0.1, 1.5)};
  for (Summary& s : views[1].metrics) {
    s.low = s.high = {};
    s.runs = 2;
  }
  EXPECT_THAT(verdict(views), ElementsAre("org/model, p8+n64: no verdict: 1 of 2 cells can be compared (int8: no "
                                          "interval from 2 runs)"));
}

TEST(Verdict, UnlikeTokenCountsAreNotCompared) {
  auto views = three();
  views[2].response_ids.resize(10);
  EXPECT_THAT(verdict(views), ElementsAre(HasSubstr("different numbers of tokens")));
}

TEST(Verdict, NamesTheEnginesWhereTheyDiffer) {
  auto views = three();
  for (RecordView& v : views) v.engine = "persistent";
  EXPECT_EQ(verdict(views)[0], "org/model, p8+n64:");
  views[0].engine = "graph";
  EXPECT_EQ(verdict(views)[0], "org/model, p8+n64 (fp16: graph, int8: persistent, 4bit: persistent):");
  views.push_back(view("4bit", 30, 0.2, 1.1));
  views[3].engine = "graph";
  EXPECT_THAT(verdict(views)[1], AllOf(HasSubstr("fastest: 4bit on persistent"), HasSubstr("× 4bit on graph")));
}

TEST(Verdict, ComparesOnOneDeviceAlone) {
  auto views = three();
  for (RecordView& v : views) v.device = "Some GPU";
  EXPECT_EQ(verdict(views)[0], "org/model, p8+n64:");
  auto others = three();
  for (RecordView& v : others) v.device = "Some CPU";
  views.insert(views.end(), others.begin(), others.end());
  const auto lines = verdict(views);
  ASSERT_THAT(lines, SizeIs(10));
  EXPECT_EQ(lines[0], "org/model, p8+n64, Some GPU:");
  EXPECT_EQ(lines[5], "org/model, p8+n64, Some CPU:");
}

TEST(Verdict, OfThousandsOfCellsIsLeftOut) {
  const std::vector<RecordView> views(kMostVerdictCells + 1, view_of(test_record({})));
  EXPECT_THAT(whole_text(views, true), HasSubstr("left out of more than 1000 cells"));
}

TEST(Verdict, OfACellThatWasMeasuredTwiceThereIsNone) {
  auto views = three();
  views.push_back(views[1]);
  EXPECT_THAT(verdict(views), ElementsAre("org/model, p8+n64: no verdict: int8 was measured more than once"));
}

TEST(Verdict, OnePrecisionAloneHasNone) { EXPECT_THAT(verdict(std::vector{three()[0]}), SizeIs(0)); }

// Each cell twice, the second time so many per cent slower.
std::vector<RecordView> halves(double half_width, double slower_percent) {
  std::vector<RecordView> views;
  for (const char* precision : {"fp16", "int8"}) {
    for (const char* half : {"A", "B"}) {
      const double rate = *half == 'A' ? 1000 : 1000 * (1 - slower_percent / 100);
      views.push_back(view(precision, rate, half_width, 1));
      views.back().half = half;
    }
  }
  return views;
}

TEST(NoiseFloor, IsOfTheHalvesOfEachCell) {
  const auto lines = noise_floor(halves(2, 0.5));
  ASSERT_THAT(lines, SizeIs(4));
  EXPECT_THAT(lines[0], AllOf(HasSubstr("org/model fp16 p8+n64: B is 0.9950 × A [0.99"), HasSubstr("same within 2 %")));
  EXPECT_THAT(lines[1], HasSubstr("org/model int8 p8+n64: B is 0.9950 × A"));
  EXPECT_THAT(lines[2], HasSubstr("measurements of the same cell: 0.5 %; their intervals reach 0."));
  EXPECT_THAT(lines[3], HasSubstr("; the usual 2 % will do"));
  EXPECT_THAT(noise_floor(three()), SizeIs(0)) << "there are no halves";
}

TEST(NoiseFloor, OfARestlessMachineSaysThatTheUsualThresholdIsTooFine) {
  const auto lines = noise_floor(halves(60, 1));
  EXPECT_THAT(lines[0], HasSubstr(": ambiguous"));
  EXPECT_THAT(lines[3], HasSubstr("at the usual 2 % some cells that are the same would be called ambiguous"));
}

TEST(NoiseFloor, LeavesOutWhatCannotBeComparedAndSaysSo) {
  auto views = halves(2, 0);
  views[1].stamp.kind = StampKind::invalid;
  views[3].response_ids.back() = 8;
  const auto lines = noise_floor(views);
  EXPECT_EQ(lines[0], "org/model fp16 p8+n64: not compared: B: INVALID");
  EXPECT_THAT(lines[1], HasSubstr("int8 p8+n64: B is 1.0000 × A"));
  EXPECT_EQ(lines[2], "org/model int8 p8+n64: its halves generated different tokens");
  views[2].status = "failed";
  EXPECT_THAT(noise_floor(views), ElementsAre(HasSubstr("B: INVALID"), HasSubstr("A: INVALID, failed")));
}

TEST(NoiseFloor, HalvesAreNamedInTheTableAndHaveNoOtherVerdict) {
  const auto views = halves(2, 0);
  EXPECT_THAT(table_text(views), AllOf(HasSubstr("fp16 A"), HasSubstr("int8 B")));
  EXPECT_THAT(verdict(views), SizeIs(0));
  EXPECT_THAT(responses_text(views), testing::IsEmpty());
  EXPECT_THAT(csv(views, CsvSchema::own), AllOf(HasSubstr(",runs,aa_half,"), HasSubstr(",10,B,")));
}

TEST(Csv, PredecessorsColumnsAndUnits) {
  auto views = three();
  views[1].status = "failed";
  views[1].error = "died, \"badly\"";
  views[1].metrics.clear();
  const std::string text = csv(views, CsvSchema::predecessor);
  EXPECT_EQ(text.substr(0, text.find('\n')), "precision,latency_sec,tokens_per_sec,peak_mem_gb,error");
  EXPECT_THAT(text, HasSubstr("\nfp16,4.48"));
  EXPECT_THAT(text, HasSubstr(",14.26,2.5,\n"));
  EXPECT_THAT(text, HasSubstr("\nint8,,,,\"died, \"\"badly\"\"\"\n"));
  const std::string full = csv(three(), CsvSchema::predecessor_full);
  EXPECT_EQ(full.substr(0, full.find('\n')),
            "precision,total_latency_sec,tokens_per_sec,per_token_latency_sec,generated_tokens,start_mem_gb,end_mem_gb,"
            "peak_mem_gb,error");
  EXPECT_THAT(full, HasSubstr(",64,0.015625,2.375,2.5,\n"));
}

TEST(Csv, OwnHasAHeadingForEachColumnOfEachRow) {
  auto views = three();
  views[0].metrics.clear();
  views[0].status = "failed";
  views[1].device = "Some GPU";
  views[1].engine = "graph";
  views[1].tuning = "ring, pieces";
  const std::string text = csv(views, CsvSchema::own);
  // Quoted commas appear in the long names only: take them out, then count.
  std::vector<size_t> commas;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = text.find('\n', at);
    bool quoted = false;
    size_t count = 0;
    for (char c : text.substr(at, end - at)) {
      if (c == '"') quoted = !quoted;
      count += c == ',' && !quoted;
    }
    commas.push_back(count);
    at = end + 1;
  }
  ASSERT_THAT(commas, SizeIs(4));
  EXPECT_THAT(commas, testing::Each(commas[0]));
  EXPECT_THAT(text, HasSubstr("tokens_per_second,tokens_per_second_low,tokens_per_second_high"));
  EXPECT_THAT(text, HasSubstr("memory_peak_bytes"));
  EXPECT_THAT(text, HasSubstr(",prompt_tokens,new_tokens,depth,batch,device,engine,tuning,status,"));
  EXPECT_THAT(text, HasSubstr("p8+n64,generation,8,64,0,1,Some GPU,graph,\"ring, pieces\",ok"));
}

}  // namespace
}  // namespace quantbench
