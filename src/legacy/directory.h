#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/result.h"
#include "kv/engine.h"

// The directory layer of FoundationDB's client libraries, read only: names that lead to short key prefixes
// (https://apple.github.io/foundationdb/developer-guide.html#directories). Only the default layer: nodes
// below the byte 0xfe, contents at the top, no partitions.

namespace fdbnbd::legacy {

// The prefix of the root directory's node.
inline constexpr std::string_view kRootDirectory = "\xfe";

// The prefix of the directory `name` in the one with the prefix `parent`; nothing where there is none.
Task<Result<std::optional<std::string>>> find_directory(kv::Engine& engine, Executor& executor,
                                                        std::string parent, std::string name);
// The same for a whole path from the root on.
Task<Result<std::optional<std::string>>> find_directory(kv::Engine& engine, Executor& executor,
                                                        std::vector<std::string> path);

// What the keys of all entries of a directory begin with; the name follows, as text.
std::string entries_prefix(std::string_view directory);

}  // namespace fdbnbd::legacy
