#pragma once

#include <string>

#include "async/task.h"
#include "base/result.h"
#include "volume/record_reader.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// Store::change_labels.
Task<Result<void>> change_labels(RecordReader& records, std::string name, LabelChange change);

}  // namespace fdbnbd::volume
