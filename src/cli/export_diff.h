#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "cli/context.h"

namespace fdbnbd::cli {

struct ExportDiffArguments {
  std::string name;                 // VOL@B, or VOL: as it is now
  std::optional<std::string> from;  // a snapshot of VOL; all of it where none is named
  std::string file;                 // or - for stdout
  bool force = false;               // writes over the file
};

// Writes the stream that brings a disk from one point to another (docs/backup.md). What an earlier run for
// the same points has left in FILE.partial is gone on with.
Result<void> export_diff(const Context& context, const ExportDiffArguments& arguments);

}  // namespace fdbnbd::cli
