#pragma once

#include <string>

#include "base/result.h"
#include "cli/context.h"

namespace fdbnbd::cli {

struct ImportDiffArguments {
  std::string file;  // or - for stdin
  std::string volume;
};

// Brings a volume to where a stream of export-diff ends, or leaves it as it is (docs/backup.md).
Result<void> import_diff(const Context& context, const ImportDiffArguments& arguments);

}  // namespace fdbnbd::cli
