#include "kv/memory/memory_engine.h"

#include <gtest/gtest.h>

#include "kv/conformance_testing.h"

namespace fdbnbd::kv {
namespace {

std::unique_ptr<Engine> open_for_conformance(uint64_t seed) {
  auto engine = open_memory_engine({.seed = seed});
  EXPECT_TRUE(engine);
  return std::move(*engine);
}

INSTANTIATE_TEST_SUITE_P(Memory, EngineConformance,
                         testing::Values(ConformanceSubject{"Simulated", open_for_conformance, true},
                                         ConformanceSubject{"Threaded", open_for_conformance, false}),
                         conformance_subject_name);

}  // namespace
}  // namespace fdbnbd::kv
