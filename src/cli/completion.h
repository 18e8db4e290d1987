#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fdbnbd::cli {

struct VerbSummary {
  std::string name;
  std::string description;
  std::vector<std::string> flags;       // "--json"; with those of the verbs below it
  std::vector<std::string> verbs = {};  // below it, as "ls" of "lock ls"
  bool takes_volume = false;            // as its first argument
  bool takes_snapshot = false;          // the same
  bool takes_file = false;
};

// A completion script for "bash", "zsh" or "fish"; it asks the program for the volumes' names.
Result<std::string> completion_script(std::string_view shell, const std::vector<VerbSummary>& verbs,
                                      const std::vector<std::string>& global_flags);

}  // namespace fdbnbd::cli
