#include "checkpoint/renamed_source.h"

#include <algorithm>
#include <unordered_map>

#include "core/error.h"

namespace quantbench {
namespace {

class RenamedSource final : public WeightSource {
 public:
  RenamedSource(std::unique_ptr<WeightSource> source, std::unordered_map<std::string, std::string> file_names)
      : source_(std::move(source)), file_names_(std::move(file_names)) {}

  std::string where() const override { return source_->where(); }
  Prequantized prequantized() const override { return source_->prequantized(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, in_file] : file_names_) all.push_back(name);
    std::sort(all.begin(), all.end());
    return all;
  }
  std::optional<TensorInfo> find(const std::string& name) const override {
    const auto found = file_names_.find(name);
    return found == file_names_.end() ? std::nullopt : source_->find(found->second);
  }
  void read_f16(const std::string& name, int64_t first, int64_t count, f16* out) const override {
    source_->read_f16(file_names_.at(name), first, count, out);
  }
  void read_bf16(const std::string& name, int64_t first, int64_t count, bf16* out) const override {
    source_->read_bf16(file_names_.at(name), first, count, out);
  }
  void read_f32(const std::string& name, int64_t first, int64_t count, float* out) const override {
    source_->read_f32(file_names_.at(name), first, count, out);
  }
  void read_bytes(const std::string& name, int64_t offset, std::span<std::byte> out) const override {
    source_->read_bytes(file_names_.at(name), offset, out);
  }

 private:
  std::unique_ptr<WeightSource> source_;
  std::unordered_map<std::string, std::string> file_names_;  // by the model's names
};

}  // namespace

std::string name_in_model(const std::string& in_file, std::span<const RenamedPrefix> rules) {
  const auto begins = [&](const std::string& prefix) { return in_file.starts_with(prefix); };
  if (std::any_of(rules.begin(), rules.end(), [&](const RenamedPrefix& rule) { return begins(rule.in_model); })) {
    return in_file;
  }
  for (const RenamedPrefix& rule : rules) {
    if (begins(rule.in_file)) return rule.in_model + in_file.substr(rule.in_file.size());
  }
  return in_file;
}

std::vector<std::string> names_in_files(const std::string& module, std::span<const RenamedPrefix> rules) {
  std::vector<std::string> names{module};
  const std::string prefix = module + ".";
  for (const RenamedPrefix& rule : rules) {
    if (!prefix.starts_with(rule.in_model)) continue;
    std::string name = rule.in_file + prefix.substr(rule.in_model.size());
    name.pop_back();
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
  }
  return names;
}

std::unique_ptr<WeightSource> renamed(std::unique_ptr<WeightSource> source, std::span<const RenamedPrefix> rules) {
  std::unordered_map<std::string, std::string> file_names;
  bool any = false;
  for (const std::string& name : source->names()) {
    std::string in_model = name_in_model(name, rules);
    any |= in_model != name;
    const auto [at, is_new] = file_names.emplace(std::move(in_model), name);
    if (is_new) continue;
    fail(ErrorKind::bad_model, "{}: tensors '{}' and '{}' are the same weight by two names; get the model again",
         source->where(), at->second, name);
  }
  if (!any) return source;
  return std::make_unique<RenamedSource>(std::move(source), std::move(file_names));
}

}  // namespace quantbench
