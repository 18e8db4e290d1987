#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "base/checked_math.h"
#include "session/sim_server_testing.h"

// Random operations of several clients, many in flight, against a vector of bytes.

namespace fdbnbd::session {
namespace {

using proto::Command;
using proto::NbdError;
using proto::Request;

constexpr uint64_t kPartBytes = 96 * 1024;  // of the disk, per client
constexpr size_t kDepth = 12;

struct Range {
  uint64_t begin;
  uint64_t end;
  bool overlaps(const Range& other) const { return begin < other.end && other.begin < end; }
};

// One client with its part of the disk: requests that are in flight together do not overlap where one of them
// changes data, so the answer to each is known.
struct Actor {
  uint64_t base = 0;
  std::vector<std::byte> model;
  struct Sent {
    Request request;
    Range range{};
    bool changes = false;
    std::vector<std::byte> payload;
  };
  std::map<uint64_t, Sent> in_flight;
  uint64_t answered = 0;
};

bool may_send(const Actor& actor, const Actor::Sent& next) {
  return std::ranges::none_of(actor.in_flight, [&next](const auto& sent) {
    return (next.changes || sent.second.changes) && next.range.overlaps(sent.second.range);
  });
}

Actor::Sent pick(Actor& actor, Random& random) {
  constexpr Command kCommands[] = {Command::read,         Command::read,  Command::write,
                                   Command::write,        Command::trim,  Command::write_zeroes,
                                   Command::block_status, Command::flush, Command::cache};
  Actor::Sent next;
  next.request.command = kCommands[random.below(std::size(kCommands))];
  if (next.request.command == Command::flush) return next;
  const uint64_t granule = random.one_in(2) ? 4096 : 1;
  const uint64_t begin = random.below(kPartBytes) / granule * granule;
  const uint64_t most = random.one_in(8) ? kPartBytes - begin : std::min<uint64_t>(kPartBytes - begin, 9000);
  const uint64_t length = std::max<uint64_t>(granule, (1 + random.below(most)) / granule * granule);
  next.range = {begin, std::min(begin + length, kPartBytes)};
  next.request.offset_bytes = actor.base + begin;
  next.request.length_bytes = static_cast<uint32_t>(next.range.end - begin);
  next.changes = next.request.command == Command::write || next.request.command == Command::trim ||
                 next.request.command == Command::write_zeroes;
  if (next.request.command == Command::write) {
    next.payload.assign(next.request.length_bytes, static_cast<std::byte>(1 + random.below(255)));
  }
  if (random.one_in(4)) next.request.flags |= proto::kCmdFlagFua;
  if (next.request.command == Command::read && random.one_in(3)) next.request.flags |= proto::kCmdFlagDf;
  return next;
}

void check(Actor& actor, const ClientReply& reply) {
  const auto found = actor.in_flight.find(reply.cookie);
  ASSERT_NE(found, actor.in_flight.end());
  const Actor::Sent sent = std::move(found->second);
  actor.in_flight.erase(found);
  ++actor.answered;
  ASSERT_EQ(reply.error, NbdError::ok) << command_name(sent.request.command);
  const auto part = std::span(actor.model).subspan(sent.range.begin, sent.range.end - sent.range.begin);
  switch (sent.request.command) {
    case Command::read:
      ASSERT_TRUE(std::ranges::equal(part, reply.data));
      break;
    case Command::write:
      std::ranges::copy(sent.payload, part.begin());
      break;
    case Command::trim:
    case Command::write_zeroes:
      std::ranges::fill(part, std::byte{0});
      break;
    case Command::block_status: {
      uint64_t at = 0;
      for (const auto& [length, flags] : reply.extents) {
        ASSERT_LE(at + length, part.size());
        if ((flags & proto::kStateZero) != 0) ASSERT_TRUE(is_all_zero(part.subspan(at, length)));
        at += length;
      }
      break;
    }
    default:
      break;
  }
}

Task<void> act(SimServer& world, Actor& actor, uint64_t seed, size_t operations) {
  Random random(seed);
  size_t left = operations;
  while (left > 0) {
    // A connection lives for a while, then the next one goes on.
    TestClient client(world.dial());
    const bool structured = !random.one_in(3);
    const bool connected = co_await client.connect({.structured = structured});
    EXPECT_TRUE(connected);
    if (!connected) co_return;
    size_t of_this_connection = std::min<size_t>(left, 1 + random.below(200));
    left -= of_this_connection;
    while (of_this_connection > 0 || !actor.in_flight.empty()) {
      const bool send = of_this_connection > 0 && actor.in_flight.size() < kDepth && !random.one_in(4);
      if (send) {
        Actor::Sent next = pick(actor, random);
        const bool structured_only =
            next.request.command == Command::block_status || next.request.has(proto::kCmdFlagDf);
        if (!may_send(actor, next) || (structured_only && !structured)) continue;
        --of_this_connection;
        const Request request = next.request;
        const auto payload = next.payload;
        const uint64_t cookie = co_await client.send(request, payload);
        actor.in_flight.emplace(cookie, std::move(next));
      } else if (!actor.in_flight.empty()) {
        const auto reply = co_await client.receive();
        EXPECT_TRUE(reply.has_value());
        if (!reply) co_return;
        check(actor, *reply);
        if (testing::Test::HasFatalFailure()) co_return;
      }
    }
    co_await client.send({.command = Command::disc});
    client.stream().close();
  }
}

void run_seed(uint64_t seed, size_t operations) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  SessionLimits limits;
  if (random.one_in(2)) {
    limits.connection_bytes = 64 * 1024;
    limits.process_bytes = 256 * 1024;
    limits.reserved_for_small_bytes = 32 * 1024;
    limits.small_request_bytes = 8 * 1024;
    limits.requests_per_connection = 1 + static_cast<uint32_t>(random.below(12));
  }
  if (random.one_in(2)) limits.receive_buffer_bytes = 64 + static_cast<uint32_t>(random.below(5000));
  const size_t clients = 1 + random.below(6);
  SimServer world(
      {.seed = seed,
       .limits = limits,
       .fake = {.size_bytes = clients * kPartBytes, .hole_block_bytes = random.one_in(4) ? 0u : 4096u},
       .pipe_bytes = 1 + random.below(100'000),
       .random_pipes = random.one_in(2),
       .random_delays = !random.one_in(4)});
  std::vector<Actor> actors(clients);
  TaskScope scope;
  for (size_t i = 0; i < clients; ++i) {
    actors[i].base = i * kPartBytes;
    actors[i].model.resize(kPartBytes);
    scope.spawn(act(world, actors[i], seed * 1000 + i, operations));
  }
  const auto wait = [](TaskScope& all) -> Task<void> { co_await all.join(); };
  world.run(wait(scope));
  world.stop();
  for (const Actor& actor : actors) {
    EXPECT_EQ(actor.answered, operations);
    const auto part = std::span(world.exported->bytes()).subspan(actor.base, kPartBytes);
    EXPECT_TRUE(std::ranges::equal(part, actor.model));
  }
  EXPECT_EQ(world.server.stats().bytes_in_flight, 0u);
}

TEST(SessionModel, RandomOperationsOfManyClientsGiveWhatAByteVectorGives) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    run_seed(seed, 150);
    if (HasFailure()) break;
  }
}

}  // namespace
}  // namespace fdbnbd::session
