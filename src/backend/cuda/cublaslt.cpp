// Gemm over cuBLASLt, opened at run time: never linked, and where it is missing our own kernels multiply. Types and
// constants come from the toolkit's header, which has kept them since version 12; without it this file has no library.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>

#include "backend/cuda/check.h"
#include "backend/cuda/cublaslt_file.h"
#include "backend/cuda/gemm.h"
#include "backend/cuda/gemm_choice.h"
#include "backend/hashing.h"
#include "core/error.h"
#include "core/os.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

namespace quantbench::cuda {
namespace {

struct Functions {
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) propose = nullptr;
  decltype(&cublasLtMatmulDescCreate) make_product = nullptr;
  decltype(&cublasLtMatmulDescDestroy) end_product = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_product = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) make_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) end_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) make_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) end_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;

  bool find(const os::Library& library) {
    const auto all = [&](auto... pairs) {
      return ((*pairs.second =
                   library.find<std::remove_pointer_t<std::remove_pointer_t<decltype(pairs.second)>>>(pairs.first)) &&
              ...);
    };
    return all(
        std::pair{"cublasLtCreate", &create}, std::pair{"cublasLtDestroy", &destroy},
        std::pair{"cublasLtMatmul", &matmul}, std::pair{"cublasLtMatmulAlgoGetHeuristic", &propose},
        std::pair{"cublasLtMatmulDescCreate", &make_product}, std::pair{"cublasLtMatmulDescDestroy", &end_product},
        std::pair{"cublasLtMatmulDescSetAttribute", &set_product},
        std::pair{"cublasLtMatrixLayoutCreate", &make_layout}, std::pair{"cublasLtMatrixLayoutDestroy", &end_layout},
        std::pair{"cublasLtMatmulPreferenceCreate", &make_preference},
        std::pair{"cublasLtMatmulPreferenceDestroy", &end_preference},
        std::pair{"cublasLtMatmulPreferenceSetAttribute", &set_preference});
  }
};

void check_status(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(ErrorKind::device, "cuBLASLt answered {} with status {}; see nvidia-smi and the kernel's log", call,
       static_cast<int>(status));
}

// Column-major in cuBLASLt's words: D [n, rows] = A [k, n]ᵀ · B [k, rows], A the weights, B the activations.
class Product {
 public:
  Product(const Functions& f, cublasLtHandle_t handle, const GemmShape& shape) : f_(f) {
    const auto compute = shape.int8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
    const auto result = shape.int8 ? CUDA_R_32I : CUDA_R_32F, operand = shape.int8 ? CUDA_R_8I : CUDA_R_16F;
    check_status(f_.make_product(&product_, compute, result), "cublasLtMatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    set(CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    if (shape.biased) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    }
    const auto n = static_cast<uint64_t>(shape.n), k = static_cast<uint64_t>(shape.k),
               rows = static_cast<uint64_t>(shape.rows);
    check_status(f_.make_layout(&w_, operand, k, n, shape.k), "cublasLtMatrixLayoutCreate");
    check_status(f_.make_layout(&x_, operand, k, rows, shape.x_stride), "cublasLtMatrixLayoutCreate");
    check_status(f_.make_layout(&y_, result, n, rows, shape.y_stride), "cublasLtMatrixLayoutCreate");
    propose(handle);
  }
  ~Product() {
    f_.end_layout(y_);
    f_.end_layout(x_);
    f_.end_layout(w_);
    f_.end_product(product_);
  }
  Product(const Product&) = delete;

  size_t proposals() const { return proposals_; }
  void choose(size_t proposal) { chosen_ = proposal; }
  size_t chosen() const { return chosen_; }
  // Its bytes, which the library's documentation lets one keep for later processes of the same version.
  std::string algorithm(size_t proposal) const {
    const cublasLtMatmulAlgo_t& algorithm = found_[proposal].algo;
    return {reinterpret_cast<const char*>(&algorithm), sizeof algorithm};
  }
  bool is_tuned = false;

  cublasStatus_t run(cublasLtHandle_t handle, const GemmCall& call, void* workspace, CUstream_st* stream) {
    if (call.shape.biased) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias);
    const float one = 1, keep = call.shape.add ? 1.0f : 0.0f;
    const int32_t whole_one = 1, zero = 0;
    const void* const alpha = call.shape.int8 ? static_cast<const void*>(&whole_one) : &one;
    const void* const beta = call.shape.int8 ? static_cast<const void*>(&zero) : &keep;
    return f_.matmul(handle, product_, alpha, call.w, w_, call.x, x_, beta, call.y, y_, call.y, y_,
                     &found_[chosen_].algo, workspace, kGemmWorkspaceBytes, stream);
  }

 private:
  template <typename Value>
  void set(cublasLtMatmulDescAttributes_t which, const Value& value) {
    check_status(f_.set_product(product_, which, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  }
  void propose(cublasLtHandle_t handle) {
    cublasLtMatmulPreference_t preference = nullptr;
    check_status(f_.make_preference(&preference), "cublasLtMatmulPreferenceCreate");
    const size_t bytes = kGemmWorkspaceBytes;
    f_.set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    int count = 0;
    constexpr uint32_t kAligned = 16;
    for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                             CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      f_.set_preference(preference, which, &kAligned, sizeof kAligned);
    // A shape that it cannot do is an answer, and our own kernels do it.
    if (f_.propose(handle, product_, w_, x_, y_, y_, preference, static_cast<int>(found_.size()), found_.data(),
                   &count) != CUBLAS_STATUS_SUCCESS)
      count = 0;
    f_.end_preference(preference);
    const auto end = std::remove_if(found_.begin(), found_.begin() + count,
                                    [](const auto& found) { return found.state != CUBLAS_STATUS_SUCCESS; });
    proposals_ = static_cast<size_t>(end - found_.begin());
  }

  static constexpr size_t kMostProposals = 24;
  const Functions& f_;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t w_ = nullptr, x_ = nullptr, y_ = nullptr;
  std::array<cublasLtMatmulHeuristicResult_t, kMostProposals> found_{};
  size_t proposals_ = 0, chosen_ = 0;
};

class CublasLt final : public Gemm {
 public:
  CublasLt(Runtime& runtime, CublasLtFile file, const Functions& functions)
      : runtime_(runtime),
        library_(std::move(file.library)),
        library_name_("cublaslt " + file.version),
        f_(functions),
        cache_(*runtime.device().gpu, library_name_) {
    check_status(f_.create(&handle_), "cublasLtCreate");
  }
  ~CublasLt() override {
    products_.clear();
    f_.destroy(handle_);
  }

  void use(void* workspace, size_t) override { workspace_ = workspace; }
  bool takes(const GemmShape& shape) override { return product(shape).proposals() > 0; }
  void run(const GemmCall& call) override { check_status(start(product(call.shape), call), "cublasLtMatmul"); }

  std::string tune(const std::map<GemmShape, std::vector<GemmCall>>& calls) override {
    std::vector<GemmProduct> untuned;
    for (const auto& [shape, list] : calls) {
      Product& p = product(shape);
      if (p.is_tuned || p.proposals() == 0) continue;
      GemmProduct next{shape, {}, [this, &p, &list = list](size_t proposal) {
                         p.choose(proposal);
                         return time(p, list);
                       }};
      for (size_t i = 0; i < p.proposals(); ++i) next.proposals.push_back(p.algorithm(i));
      untuned.push_back(std::move(next));
    }
    const std::vector<size_t> chosen = choose_algorithms(untuned, cache_);
    for (size_t i = 0; i < untuned.size(); ++i) {
      Product& p = product(untuned[i].shape);
      p.choose(chosen[i]);
      p.is_tuned = true;
    }
    uint64_t hash = 0;
    for (const auto& [shape, list] : calls) {
      const Product& p = product(shape);
      if (p.proposals() == 0) continue;
      for (const char byte : p.algorithm(p.chosen())) hash = fold_hash(hash, static_cast<unsigned char>(byte));
    }
    return fmt::format("{} {:08x}", library_name_, hash & 0xffffffffu);
  }

 private:
  Product& product(const GemmShape& shape) {
    auto& found = products_[shape];
    if (!found) found = std::make_unique<Product>(f_, handle_, shape);
    return *found;
  }
  cublasStatus_t start(Product& p, const GemmCall& call) {
    return p.run(handle_, call, workspace_, runtime_.stream().handle);
  }
  // Of the present choice: the least of a few passes; 0 if it cannot run.
  double time(Product& p, const std::vector<GemmCall>& calls) {
    if (start(p, calls.front()) != CUBLAS_STATUS_SUCCESS) return 0;
    constexpr int kPasses = 3;
    constexpr size_t kCalls = 4;
    double least = 0;
    for (int pass = 0; pass < kPasses; ++pass) {
      const double seconds = runtime_.seconds([&] {
        for (size_t i = 0; i < kCalls; ++i) start(p, calls[i % calls.size()]);
      });
      if (pass == 0 || seconds < least) least = seconds;
    }
    return least;
  }

  Runtime& runtime_;
  os::Library library_;
  std::string library_name_;
  Functions f_;
  GemmCache cache_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<GemmShape, std::unique_ptr<Product>> products_;
};

std::optional<CublasLtFile> open_file(Functions* functions) {
  return open_cublaslt(cublaslt_names(), [&](const os::Library& library) { return functions->find(library); });
}

}  // namespace

std::unique_ptr<Gemm> open_gemm(Runtime& runtime) {
  Functions functions;
  auto file = open_file(&functions);
  return file ? std::make_unique<CublasLt>(runtime, std::move(*file), functions) : nullptr;
}

MatrixLibrary find_gemm_library() {
  Functions functions;
  return library_of(open_file(&functions));
}

}  // namespace quantbench::cuda

#else

namespace quantbench::cuda {
std::unique_ptr<Gemm> open_gemm(Runtime&) { return nullptr; }
MatrixLibrary find_gemm_library() {
  return {.missing =
              "this program was built without cuBLASLt's header (cublasLt.h); build it with a CUDA toolkit that "
              "has cuBLAS"};
}
}  // namespace quantbench::cuda

#endif
