#pragma once

#include <gtest/gtest.h>

#include "kv/fdb/network.h"

// Included once by a test program that opens engines: it ends as a program has to.

namespace fdbnbd::kv::fdb {

class StopsNetwork final : public testing::Environment {
 public:
  void TearDown() override { stop_network(); }
};

inline const testing::Environment* const kStopsNetwork =
    testing::AddGlobalTestEnvironment(new StopsNetwork);  // gtest deletes it

}  // namespace fdbnbd::kv::fdb
