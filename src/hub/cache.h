// Where the Hugging Face cache is, and what is where in it:
//   models--org--name/{blobs/<etag>, refs/<revision> (a file that holds a commit, 40 hex digits),
//   snapshots/<commit>/<file> → ../../blobs/<etag>}, .locks/models--org--name/<etag>.lock.
// Entries that are not known are tolerated.
#pragma once

#include <string>
#include <string_view>

namespace quantbench {

// $HF_HOME, by default ${XDG_CACHE_HOME:-~/.cache}/huggingface; $HF_HUB_CACHE, else $HUGGINGFACE_HUB_CACHE, else hub/
// in it. A variable that is empty counts as not set. Error hub if no home is known.
std::string hub_home_folder();
std::string hub_cache_folder();
// "~" and "~/x" as Python expands them. Error hub if no home is known.
std::string expanded_path(const std::string& path);

// At most 96 characters of [A-Za-z0-9-_.] with at most one '/' between non-empty parts, no "--" or "..", not ending in
// ".git".
bool is_repo_id(std::string_view text);
bool is_commit(std::string_view text);  // 40 small hex digits
// A relative path without "." and "..", empty parts, backslashes and control characters: of a branch or tag below
// refs/, of a file in a repository.
bool is_plain_path(std::string_view path);

struct HubName {
  std::string id;        // "org/name"
  std::string revision;  // a branch, tag or commit; "main" where none was named
};
// `org/name[@revision]`. Error hub for what is no such name.
HubName parse_hub_name(const std::string& model);

struct HubPaths {
  HubPaths(const std::string& cache, const std::string& id);
  std::string ref(const std::string& revision) const { return repository + "/refs/" + revision; }
  std::string blob(const std::string& etag) const { return repository + "/blobs/" + etag; }
  std::string snapshot(const std::string& commit) const { return repository + "/snapshots/" + commit; }

  std::string name;        // "models--org--name"
  std::string repository;  // folders
  std::string locks;
};

}  // namespace quantbench
