// `quantbench pull`: models of the Hugging Face Hub into the cache, without running them.
#include <optional>

#include "app/commands.h"
#include "app/hub_progress.h"
#include "core/os.h"
#include "report/format.h"

namespace quantbench {
namespace {

int pull_models(const std::vector<std::string>& models) {
  for (const std::string& model : models) parse_hub_name(model);  // a mistake is known before anything is downloaded
  os::catch_stop_signals();
  HubProgress progress;
  std::optional<Error> first;
  size_t failed = 0;
  for (const std::string& model : models) {
    try {
      const PulledModel pulled = pull_model(model, progress);
      std::string text = model + ": ";
      if (pulled.is_current) {
        text += fmt::format("commit {}, {} files, {}, {} of it downloaded now, in ", pulled.model.commit, pulled.files,
                            format_bytes(static_cast<double>(pulled.bytes)),
                            format_bytes(static_cast<double>(pulled.received_bytes)));
      } else {
        text += fmt::format("commit {}, as it was in the cache already, in ", pulled.model.commit);
      }
      os::write_output(text + pulled.model.folder + "\n");
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted || models.size() == 1) throw;
      progress.line(fmt::format("error: {}", error.what()));
      if (++failed == 1) first = error;
    }
  }
  if (first) {
    throw Error(first->kind(),
                fmt::format("{} of {} models were not pulled, the first: {}", failed, models.size(), first->what()));
  }
  return 0;
}

}  // namespace

void add_pull(CLI::App& app, Action* action) {
  CLI::App* command = app.add_subcommand(
      "pull", "download models from the Hugging Face Hub into the cache that Python shares, or bring them up to date");
  auto models = std::make_shared<std::vector<std::string>>();
  command->add_option("MODEL", *models, "names on the Hub: org/name[@revision], main by default")
      ->type_name("ID")
      ->required();
  command->footer(
      "Of a repository only what a run needs is downloaded: configuration, tokenizer, safetensors. Every file is "
      "checked\n"
      "against its hash; what was interrupted goes on where it stopped. HF_TOKEN for gated models; HF_HUB_CACHE, "
      "HF_HOME,\n"
      "HF_ENDPOINT, https_proxy and SSL_CERT_FILE mean what they mean to huggingface_hub and curl.");
  command->callback([models, action] { *action = [models] { return pull_models(*models); }; });
}

}  // namespace quantbench
