// Models of the Hugging Face Hub, found in the cache that Python users already have. Nothing is downloaded.
//
// The cache: models--org--name/{blobs/<etag>, refs/<revision> (a file that holds a commit, 40 hex digits),
// snapshots/<commit>/<file> → ../../blobs/<etag>}. Entries that are not known are tolerated.
#pragma once

#include <string>
#include <string_view>

namespace quantbench {

struct ResolvedModel {
  std::string folder;  // to open as a Checkpoint
  std::string name;    // "org/name[@revision]", or the folder as it was given
  std::string commit;  // of the cached snapshot; empty for a folder
};

// $HF_HUB_CACHE, else $HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub, where HF_HOME is by default
// ${XDG_CACHE_HOME:-~/.cache}/huggingface. A variable that is empty counts as not set. Error hub if no home is known.
std::string hub_cache_folder();

// At most 96 characters of [A-Za-z0-9-_.] with at most one '/' between non-empty parts, no "--" or "..", not ending in
// ".git".
bool is_repo_id(std::string_view text);

// `model` is a folder, which takes precedence, or `org/name[@revision]` (a branch, tag or commit; main by default) in
// the cache. Error hub that says where was looked and how to get the model.
ResolvedModel resolve_model(const std::string& model);

}  // namespace quantbench
