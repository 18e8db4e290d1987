#pragma once

#include <string>

#include "async/task.h"
#include "base/result.h"
#include "volume/record_reader.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// Store::usage. Reads the stored bitmaps and blocks, whoever has the volume open. Nothing of what background
// work will clear anyway is counted.
Task<Result<VolumeUsage>> measure_space(RecordReader& records, std::string name, Progress* progress);

}  // namespace fdbnbd::volume
