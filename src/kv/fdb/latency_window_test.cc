#include "kv/fdb/latency_window.h"

#include <gtest/gtest.h>

#include <chrono>

namespace fdbnbd::kv::fdb {
namespace {

using std::chrono::milliseconds;

class LatencyWindowTest : public testing::Test {
 protected:
  // One round trip of a full window.
  void run_full(Duration took) {
    const uint32_t count = window_.size();
    for (uint32_t i = 0; i < count; ++i) window_.on_done(now_, now_ + took, count);
    now_ += took;
  }

  MonotonicTime now_{std::chrono::seconds(1)};
  LatencyWindow window_{
      {.least = 1, .most = 20, .initial = 8, .quick = milliseconds(20), .slow = milliseconds(60)}};
};

TEST_F(LatencyWindowTest, GrowsByOneForEachQuickRoundTripUpToItsBound) {
  EXPECT_EQ(window_.size(), 8u);
  run_full(milliseconds(20));
  run_full(milliseconds(20));
  run_full(milliseconds(20));
  EXPECT_GE(window_.size(), 10u);
  EXPECT_LE(window_.size(), 11u);
  for (int i = 0; i < 100; ++i) run_full(milliseconds(1));
  EXPECT_EQ(window_.size(), 20u);
}

TEST_F(LatencyWindowTest, DoesNotGrowWhereItWasNotTheLimit) {
  for (int i = 0; i < 100; ++i) window_.on_done(now_, now_ + milliseconds(1), 7);
  EXPECT_EQ(window_.size(), 8u);
}

TEST_F(LatencyWindowTest, StaysBetweenQuickAndSlow) {
  for (int i = 0; i < 10; ++i) run_full(milliseconds(60));
  EXPECT_EQ(window_.size(), 8u);
}

TEST_F(LatencyWindowTest, HalvesOncePerSlowRoundTripDownToItsBound) {
  run_full(milliseconds(61));
  EXPECT_EQ(window_.size(), 4u);
  run_full(milliseconds(61));
  EXPECT_EQ(window_.size(), 2u);
  for (int i = 0; i < 10; ++i) run_full(milliseconds(61));
  EXPECT_EQ(window_.size(), 1u);
}

TEST_F(LatencyWindowTest, WhatWasStartedBeforeItShrankDoesNotShrinkItAgain) {
  window_.on_done(now_, now_ + milliseconds(100), 8);
  window_.on_done(now_ + milliseconds(99), now_ + milliseconds(200), 8);
  EXPECT_EQ(window_.size(), 4u);
  window_.on_done(now_ + milliseconds(100), now_ + milliseconds(200), 8);
  EXPECT_EQ(window_.size(), 2u);
}

TEST_F(LatencyWindowTest, ARefusalHalvesItHoweverQuickItCame) {
  window_.on_refused(now_, now_);
  EXPECT_EQ(window_.size(), 4u);
}

TEST_F(LatencyWindowTest, RecoversFromItsLeastSize) {
  for (int i = 0; i < 10; ++i) run_full(milliseconds(100));
  EXPECT_EQ(window_.size(), 1u);
  for (int i = 0; i < 4; ++i) run_full(milliseconds(5));
  EXPECT_GE(window_.size(), 4u);
}

}  // namespace
}  // namespace fdbnbd::kv::fdb
