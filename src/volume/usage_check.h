#pragma once

#include <string>
#include <vector>

#include "async/task.h"
#include "base/result.h"
#include "volume/keys.h"
#include "volume/record_reader.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// A usage record that is not what the bitmaps say. Without it they are counted, so it may always go.
struct UsageDamage {
  std::string key;
  std::string value;
  std::string what;
};

// Reads the bitmaps of everything that has a usage record.
Task<Result<std::vector<UsageDamage>>> find_usage_damage(RecordReader& records, Progress* progress);

}  // namespace fdbnbd::volume
