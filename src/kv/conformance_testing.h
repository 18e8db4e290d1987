#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "async/executor.h"
#include "kv/engine.h"

// What every engine must do, as a suite of tests. An engine's own test program links this and says
//
//   INSTANTIATE_TEST_SUITE_P(Memory, EngineConformance, testing::Values(ConformanceSubject{...}),
//                            conformance_subject_name);

// gtest's own assertions cannot leave a coroutine.
#define CO_REQUIRE(condition)                           \
  if (!(condition)) {                                   \
    ADD_FAILURE() << "required and false: " #condition; \
    co_return;                                          \
  }

namespace fdbnbd::kv {

// How gtest shows a row.
inline void PrintTo(const KeyValue& row, std::ostream* out) {
  *out << testing::PrintToString(row.key) << ": " << testing::PrintToString(row.value);
}

struct ConformanceSubject {
  std::string name;
  // A new, empty store. Keys may use every byte; those that begin with 'D' hold large values.
  std::function<std::unique_ptr<Engine>(uint64_t seed)> open;
  // Whether everything runs on the caller's thread, so that a simulated loop can drive it.
  bool simulated = false;
  // Whether commits that are under way at the same time may get one version (FoundationDB): a history that is
  // checked by its versions then commits one at a time.
  bool commits_share_versions = false;
};
inline void PrintTo(const ConformanceSubject& subject, std::ostream* out) {
  *out << subject.name;
}

std::string conformance_subject_name(const testing::TestParamInfo<ConformanceSubject>& info);

class EngineConformance : public testing::TestWithParam<ConformanceSubject> {
 protected:
  // A new store of the subject.
  std::unique_ptr<Engine> open(uint64_t seed = 1) const { return GetParam().open(seed); }
  // Runs `task`: on a seeded loop where the subject allows it, else on a real one.
  void run(uint64_t seed, const std::function<Task<void>(Executor&)>& task) const;
  // Runs `task` on several threads at once, each with a loop and a number of its own; one after the other's
  // steps on a simulated loop.
  void run_on_threads(uint64_t seed, const std::function<Task<void>(Executor&, uint64_t number)>& task) const;
};

}  // namespace fdbnbd::kv
