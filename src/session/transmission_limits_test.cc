#include "session/transmission.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "session/sim_server_testing.h"

// What sessions may take, and how they are stopped; see transmission_test.cc.

namespace fdbnbd::session {
namespace {

using proto::Command;
using proto::NbdError;
using proto::Request;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kKiB = limits::kKiB;
constexpr uint64_t kMiB = limits::kMiB;

// --- Memory

SessionLimits small_limits() {
  SessionLimits limits;
  limits.connection_bytes = 256 * kKiB;
  limits.process_bytes = kMiB;
  limits.reserved_for_small_bytes = 128 * kKiB;
  limits.small_request_bytes = 8 * kKiB;
  return limits;
}

// Sends requests until the pipe is full, reads nothing.
Task<void> flood(SimServer& world, TestClient& client, Command command, uint32_t length, bool& ended) {
  if (co_await client.connect({})) {
    for (int i = 0; i < 40; ++i) {
      Request request = plain_request(command, 0, length);
      const std::string bytes = client.encode(request, filled(command == Command::write ? length : 0, 1));
      const auto written = co_await client.stream().write_all(as_bytes(bytes));
      if (!written) break;
      co_await reschedule(world.loop);
    }
  }
  ended = true;
}

Task<void> use_politely(SimServer& world, int rounds, Duration& longest) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  for (int i = 0; i < rounds; ++i) {
    const auto begin = world.loop.clock().now();
    const auto reply = co_await client.call(read_request(4096, 4096));
    EXPECT_EQ(reply.error, NbdError::ok);
    longest = std::max<Duration>(longest, world.loop.clock().now() - begin);
    EXPECT_LE(world.server.stats().bytes_in_flight, kMiB);
    co_await sleep_for(world.loop, milliseconds(500));
  }
  co_await client.disconnect();
}

TEST(Transmission, FloodsStayWithinTheBudgetAndOthersAreServed) {
  SimServer world({.limits = small_limits(), .fake = {.hole_block_bytes = 0}, .pipe_bytes = 16 * kKiB});
  std::vector<std::unique_ptr<TestClient>> clients;
  TaskScope scope;
  std::array<bool, 32> ended{};
  for (size_t i = 0; i < ended.size(); ++i) {
    clients.push_back(std::make_unique<TestClient>(world.dial()));
    scope.spawn(flood(world, *clients.back(), i % 2 == 0 ? Command::read : Command::write,
                      i % 4 < 2 ? 100 * kKiB : 200 * kKiB, ended[i]));
  }
  Duration longest{};
  world.run(use_politely(world, 60, longest));
  EXPECT_LT(longest, milliseconds(1));
  EXPECT_LE(world.server.stats().bytes_in_flight, kMiB);
  // Those that neither read nor send on while others wait are dropped, so that everybody gets a turn.
  EXPECT_GT(world.server.stats().evicted_peers, 0u);
  for (const auto& client : clients) client->stream().close();
  world.run_for(seconds(1));
  EXPECT_EQ(scope.running_count(), 0u);
}

Task<void> count_limit(SimServer& world, TestClient& client) {
  EXPECT_TRUE(co_await client.connect({}));
  std::string batch;
  for (int i = 0; i < 100; ++i) {
    Request request = plain_request(Command::cache, 0, 512);
    batch += client.encode(request);
  }
  EXPECT_TRUE((co_await client.stream().write_all(as_bytes(batch))).has_value());
  co_await sleep_for(world.loop, milliseconds(1));
}

TEST(Transmission, RequestsInFlightAreCounted) {
  SessionLimits limits;
  limits.requests_per_connection = 10;
  SimServer world({.limits = limits, .fake = {}});
  world.exported->hold();
  TestClient client(world.dial());
  world.run(count_limit(world, client));
  EXPECT_EQ(world.exported->running_count(), 10u);
  limits.requests_per_connection = 20;
  world.server.set_limits(limits);
  TestClient newcomer(world.dial());
  world.run(count_limit(world, newcomer));
  EXPECT_EQ(world.exported->running_count(), 30u);
  world.exported->let_go();
  world.run(client.receive_all());
  world.run(newcomer.receive_all());
  EXPECT_EQ(client.in_flight_count(), 0u);
  client.stream().close();
  newcomer.stream().close();
}

Task<void> send_large(SimServer& world, TestClient& client, Command command, uint16_t flags) {
  EXPECT_TRUE(co_await client.connect({}));
  std::string batch;
  for (int i = 0; i < 20; ++i) {
    Request request = plain_request(command, 0, 64 * kMiB, flags);
    batch += client.encode(request);
  }
  EXPECT_TRUE((co_await client.stream().write_all(as_bytes(batch))).has_value());
  co_await sleep_for(world.loop, milliseconds(1));
}

TEST(Transmission, WhatIsPreparedForLargeRangesCountsAsTheirMemory) {
  struct Case {
    Command command;
    uint16_t flags;
    size_t running_count;  // of 16 extents each, in 256 KiB
  };
  for (const Case& large : {Case{Command::trim, 0, 2}, Case{Command::write_zeroes, 0, 2},
                            Case{Command::block_status, proto::kCmdFlagReqOne, 15}}) {
    SimServer world({.limits = small_limits(), .fake = {.size_bytes = 64 * kMiB}});
    world.exported->hold();
    TestClient client(world.dial());
    world.run(send_large(world, client, large.command, large.flags));
    EXPECT_EQ(world.exported->running_count(), large.running_count);
    world.exported->let_go();
    world.run(client.receive_all());
    EXPECT_EQ(client.in_flight_count(), 0u);
    client.stream().close();
  }
}

Task<void> large_then_done(SimServer& world) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  auto reply = co_await client.call(write_request(0, 4 * kMiB), filled(4 * kMiB, 5));
  EXPECT_EQ(reply.error, NbdError::ok);
  reply = co_await client.call(read_request(0, 4 * kMiB));
  EXPECT_TRUE(reply.data == filled(4 * kMiB, 5));
  co_await client.disconnect();
}

TEST(Transmission, ARequestLargerThanTheBoundsGoesAlone) {
  SimServer world({.limits = small_limits(), .fake = {.size_bytes = 4 * kMiB}});
  world.run(large_then_done(world));
}

// --- Peers that do not move

Task<void> stop_reading(SimServer& world, TestClient& client) {
  EXPECT_TRUE(co_await client.connect({}));
  co_await client.send(read_request(0, 200 * kKiB));
  co_await sleep_for(world.loop, milliseconds(1));
}

TEST(Transmission, APeerThatDoesNotReadIsDroppedAfterTheStallTimeout) {
  SimServer world({.limits = small_limits(), .fake = {.hole_block_bytes = 0}, .pipe_bytes = 16 * kKiB});
  TestClient client(world.dial());
  world.run(stop_reading(world, client));
  world.run_for(seconds(50));
  EXPECT_EQ(world.server.stats().sessions, 1u);
  EXPECT_GT(world.server.stats().bytes_in_flight, 0u);
  world.run_for(seconds(20));
  EXPECT_EQ(world.server.stats().sessions, 0u);
  EXPECT_EQ(world.server.stats().bytes_in_flight, 0u);
  EXPECT_EQ(world.server.stats().evicted_peers, 1u);
}

Task<void> begin_payload(SimServer& world, TestClient& client) {
  EXPECT_TRUE(co_await client.connect({}));
  Request request = write_request(0, 200 * kKiB);
  (void)co_await client.stream().write_all(as_bytes(client.encode(request)));
  co_await sleep_for(world.loop, milliseconds(1));
}

Task<void> dribble(SimServer& world, TestClient& client) {
  const std::byte one{1};
  while ((co_await client.stream().write_all({&one, 1})).has_value())
    co_await sleep_for(world.loop, seconds(1));
}

TEST(Transmission, APeerThatDribblesAPayloadIsDropped) {
  SimServer world({.limits = small_limits(), .fake = {}});
  TestClient client(world.dial());
  world.run(begin_payload(world, client));
  const auto begin = world.loop.clock().now();
  world.run(dribble(world, client));
  EXPECT_LT(world.loop.clock().now() - begin, seconds(75));
  EXPECT_EQ(world.server.stats().evicted_peers, 1u);
  EXPECT_EQ(world.exported->bytes()[0], std::byte{0});
}

TEST(Transmission, WhileOthersWaitAPeerThatDoesNotMoveIsDroppedSooner) {
  SessionLimits limits = small_limits();
  limits.reserved_for_small_bytes = 0;
  SimServer world({.limits = limits, .fake = {.hole_block_bytes = 0}, .pipe_bytes = 16 * kKiB});
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 6; ++i) {
    clients.push_back(std::make_unique<TestClient>(world.dial()));
    world.run(begin_payload(world, *clients.back()));
  }
  // Five hold nearly everything; the sixth waits for memory.
  world.run_for(seconds(10));
  // One makes room for it, and the others have their time again.
  EXPECT_EQ(world.server.stats().evicted_peers, 1u);
  EXPECT_EQ(world.server.stats().sessions, 5u);
  for (const auto& client : clients) client->stream().close();
}

Task<void> wait_on_the_store(SimServer& world, TestClient& client) {
  EXPECT_TRUE(co_await client.connect({}));
  co_await client.send(write_request(0, 100 * kKiB), filled(100 * kKiB, 1));
  co_await sleep_for(world.loop, seconds(300));
}

TEST(Transmission, ASlowStoreIsNotThePeersFault) {
  SimServer world({.limits = small_limits(), .fake = {}, .pipe_bytes = 16 * kKiB});
  world.exported->hold();
  TestClient client(world.dial());
  world.run(wait_on_the_store(world, client));
  EXPECT_EQ(world.server.stats().sessions, 1u);
  world.exported->let_go();
  world.run(client.receive_all());
  EXPECT_EQ(client.in_flight_count(), 0u);
  client.stream().close();
}

// --- Stopping

Task<void> write_until_end(TestClient& client, size_t& answered, bool& broke) {
  if (!co_await client.connect({})) co_return;
  for (uint32_t i = 0;; ++i) {
    while (client.in_flight_count() >= 16) {
      const auto reply = co_await client.receive();
      if (!reply) co_return;
      EXPECT_EQ(reply->error, NbdError::ok);
      ++answered;
    }
    Request request = write_request(i % 200 * 4096, 4096);
    const std::string bytes = client.encode(request, filled(4096, 1));
    if (!(co_await client.stream().write_all(as_bytes(bytes))).has_value()) break;
  }
  broke = true;
  co_await client.receive_until_end(answered);
}

TEST(Transmission, AStopUnderLoadAnswersWhatRunsAndShowsNoError) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SimServer world({.seed = seed, .limits = {}, .fake = {}, .random_pipes = true, .random_delays = true});
    std::vector<std::unique_ptr<TestClient>> clients;
    TaskScope scope;
    std::array<size_t, 4> answered{};
    std::array<bool, 4> broke{};
    for (size_t i = 0; i < answered.size(); ++i) {
      clients.push_back(std::make_unique<TestClient>(world.dial()));
      scope.spawn(write_until_end(*clients.back(), answered[i], broke[i]));
    }
    world.run_for(milliseconds(100));
    world.stop();
    for (const auto& client : clients) client->stream().close();
    world.run_for(seconds(1));
    EXPECT_EQ(scope.running_count(), 0u);
    size_t total = 0;
    for (const size_t count : answered) total += count;
    // Every write that took effect was answered.
    EXPECT_EQ(total, world.exported->ended_counts["write"]) << "seed " << seed;
    EXPECT_GT(total, 0u);
  }
}

TEST(Transmission, AStopCutsOffWhatDoesNotEnd) {
  SimServer world({.limits = small_limits(), .fake = {.hole_block_bytes = 0}, .pipe_bytes = 16 * kKiB});
  TestClient client(world.dial());
  world.run(stop_reading(world, client));
  const auto begin = world.loop.clock().now();
  world.stop(seconds(5));
  EXPECT_EQ(world.loop.clock().now() - begin, seconds(5));
  EXPECT_EQ(world.server.stats().connections, 0u);
}

}  // namespace
}  // namespace fdbnbd::session
