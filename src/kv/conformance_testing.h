#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>

#include "async/executor.h"
#include "kv/engine.h"

// What every engine must do, as a suite of tests. An engine's own test program links this and says
//
//   INSTANTIATE_TEST_SUITE_P(Memory, EngineConformance, testing::Values(ConformanceSubject{...}),
//                            conformance_subject_name);

namespace fdbnbd::kv {

struct ConformanceSubject {
  std::string name;
  // A new, empty store. Keys may use every byte; those that begin with 'D' hold large values.
  std::function<std::unique_ptr<Engine>(uint64_t seed)> open;
  // Whether everything runs on the caller's thread, so that a simulated loop can drive it.
  bool simulated = false;
};

std::string conformance_subject_name(const testing::TestParamInfo<ConformanceSubject>& info);

class EngineConformance : public testing::TestWithParam<ConformanceSubject> {
 protected:
  // A new store of the subject.
  std::unique_ptr<Engine> open(uint64_t seed = 1) const { return GetParam().open(seed); }
  // Runs `task`: on a seeded loop where the subject allows it, else on a real one.
  void run(uint64_t seed, const std::function<Task<void>(Executor&)>& task) const;
};

}  // namespace fdbnbd::kv
