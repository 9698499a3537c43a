// Single linears on every backend and instruction set against what bitsandbytes computed on CUDA and PyTorch in fp16
// (testdata/README.md): outputs of int8 equal to the bit, errors of nf4 and fp16 at most twice theirs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "backend/test_backends.h"
#include "quant/golden_data.h"
#include "quant/nf4.h"

namespace quantbench {
namespace {

const char* const kInputs[] = {"x", "x_outliers", "x1", "x1_outliers", "x17", "x17_outliers"};
constexpr double kErrorRatio = 2;

std::vector<float> floats(const std::vector<f16>& values) {
  std::vector<float> result;
  for (const f16 value : values) result.push_back(to_float(value));
  return result;
}

// The outputs of one linear, by the backend's own op.
std::vector<float> product(Backend& backend, const HostMatrix& weight, const Matrix& shape,
                           const std::vector<float>& bias, const std::vector<float>& x) {
  const int n = rows_of(shape), k = cols_of(shape), rows = static_cast<int>(x.size()) / k;
  const auto upload = [&](const std::vector<float>& values) {
    auto buffer = backend.allocate(Use::activations, values.size() * sizeof(float));
    backend.upload(*buffer, 0, values.data(), values.size() * sizeof(float));
    return buffer;
  };
  const auto in = upload(x), b = upload(bias), out = upload(std::vector<float>(static_cast<size_t>(rows) * n));
  Linear linear{shape, static_cast<const float*>(b->data()), true};
  TapeOps tape;
  tape.project({.y = {out->data(), DType::f32, rows, n}, .x = {in->data(), DType::f32, rows, k}, .w = &linear});
  const Plan plan = backend.plan(tape.tape(), rows);
  linear.weight = backend.pack(weight, Role::linear, plan);
  backend.record(plan)->run();
  backend.synchronize();
  std::vector<float> y(static_cast<size_t>(rows) * n);
  backend.download(y.data(), out->data(), y.size() * sizeof(float));
  return y;
}

// x·Wᵀ + b in double.
std::vector<double> exact(const std::vector<float>& w, const std::vector<float>& bias, const std::vector<float>& x) {
  const size_t n = bias.size(), k = w.size() / n;
  std::vector<double> y;
  for (size_t row = 0; row < x.size() / k; ++row) {
    for (size_t i = 0; i < n; ++i) {
      double sum = bias[i];
      for (size_t j = 0; j < k; ++j) sum += double{x[row * k + j]} * w[i * k + j];
      y.push_back(sum);
    }
  }
  return y;
}

void expect_error_at_most_twice(const std::vector<float>& ours, const std::vector<float>& theirs,
                                const std::vector<double>& right, const std::string& who) {
  ASSERT_EQ(ours.size(), theirs.size()) << who;
  double most_ours = 0, most_theirs = 0, sum_ours = 0, sum_theirs = 0;
  for (size_t i = 0; i < right.size(); ++i) {
    const double a = std::abs(ours[i] - right[i]), b = std::abs(theirs[i] - right[i]);
    most_ours = std::max(most_ours, a), most_theirs = std::max(most_theirs, b);
    sum_ours += a * a, sum_theirs += b * b;
  }
  EXPECT_LE(most_ours, kErrorRatio * most_theirs) << who;
  EXPECT_LE(std::sqrt(sum_ours), kErrorRatio * std::sqrt(sum_theirs)) << who;
}

class LinearGolden : public testing::TestWithParam<std::string> {
 protected:
  // Calls body(data, linear, input, x, name of the golden output without its format) for every golden output.
  template <typename Body>
  void for_each(const Body& body) {
    for (const std::string& file : golden_files()) {
      const GoldenData data(file);
      for (const std::string& linear : data.linears()) {
        for (const std::string input : kInputs) {
          if (!data.has(linear + "." + input)) continue;
          const auto x = floats(data.get<f16>(linear + "." + input));
          // "x17" → "y_x17"; the older file says "x" → "y".
          std::string output = fmt::format("y_{}", input);
          if (!data.has(linear + ".int8." + output)) output = fmt::format("y{}", input.substr(1));
          body(data, linear, input, x, output);
          ++compared_;
        }
      }
    }
    EXPECT_EQ(compared_, 26) << "golden outputs";
  }
  std::unique_ptr<Backend> backend() const {
    const std::string name = GetParam(), isa = name.starts_with("cpu/") ? name.substr(4) : "";
    return isa.empty() ? make_test_backend(name) : make_backend("cpu", {.isa = isa});
  }

 private:
  int compared_ = 0;
};

TEST_P(LinearGolden, Int8OutputsAreBitsandbytes) {
  for_each([&](const GoldenData& data, const std::string& linear, const std::string& input, const auto& x,
               const std::string& output) {
    const GoldenInt8 golden(data, linear);
    const auto y = product(*backend(), golden.view(), Int8Matrix{golden.n, golden.k}, golden.bias, x);
    EXPECT_EQ(y, floats(data.get<f16>(linear + ".int8." + output))) << linear << " " << input;
  });
}

TEST_P(LinearGolden, Nf4ErrsAtMostTwiceAsMuchAsBitsandbytes) {
  for_each([&](const GoldenData& data, const std::string& linear, const std::string& input, const auto& x,
               const std::string& output) {
    if (!data.has(linear + ".nf4." + output)) return;  // the older file has none for inputs with outliers
    const GoldenNf4 golden(data, linear);
    const HostNf4 weight = golden.view();
    const auto bias = floats(data.get<f16>(linear + ".b"));
    std::vector<float> w(static_cast<size_t>(weight.n) * weight.k);
    dequantize_nf4(weight, w);
    const auto y = product(*backend(), weight, Nf4Matrix{weight.n, weight.k}, bias, x);
    expect_error_at_most_twice(y, floats(data.get<f16>(linear + ".nf4." + output)), exact(w, bias, x),
                               linear + " " + input);
  });
}

TEST_P(LinearGolden, Fp16ErrsAtMostTwiceAsMuchAsPyTorch) {
  const GoldenData torch("linears/fp16.golden.safetensors");
  for_each([&](const GoldenData& data, const std::string& linear, const std::string& input, const auto& x,
               const std::string&) {
    const int n = data.dim(linear + ".w", 0), k = data.dim(linear + ".w", 1);
    const auto w = data.get<f16>(linear + ".w");
    const auto bias = floats(data.get<f16>(linear + ".b"));
    const HostF16 weight{n, k, [&](int first, int count, f16* out) {
                           std::copy_n(w.data() + static_cast<size_t>(first) * k, static_cast<size_t>(count) * k, out);
                         }};
    const auto y = product(*backend(), weight, F16Matrix{n, k}, bias, x);
    expect_error_at_most_twice(y, floats(torch.get<f16>(linear + ".y_" + input)), exact(floats(w), bias, x),
                               linear + " " + input);
  });
}

// Every backend that runs here; the cpu backend once for each instruction set.
std::vector<std::string> all_backends() {
  std::vector<std::string> names;
  for (const std::string& name : test_backend_names()) {
    if (name != "cpu") {
      names.push_back(name);
      continue;
    }
    for (const std::string isa : {"avx2", "avx512"}) {
      try {
        make_backend("cpu", {.isa = isa});
        names.push_back("cpu/" + isa);
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::device) throw;
      }
    }
  }
  return names;
}

std::string name_of(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '/', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Backends, LinearGolden, testing::ValuesIn(all_backends()), name_of);

}  // namespace
}  // namespace quantbench
