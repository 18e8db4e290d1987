#include "session/server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/endian.h"
#include "net/fd_stream.h"
#include "net/io_loop.h"
#include "session/sim_server_testing.h"

namespace fdbnbd::session {
namespace {

using proto::Command;
using proto::NbdError;
using proto::Request;
using std::chrono::milliseconds;
using std::chrono::seconds;

Task<void> wait_for_end(TestClient& client, bool& ended) {
  std::array<std::byte, 256> buffer;
  for (;;) {
    const auto count = co_await client.stream().read_some(buffer);
    if (!count || *count == 0) break;
  }
  ended = true;
}

// --- The handshake phase

TEST(SessionServer, ASilentClientIsDroppedAtTheHandshakeDeadline) {
  SimServer world({});
  TestClient client(world.dial());
  bool ended = false;
  TaskScope scope;
  scope.spawn(wait_for_end(client, ended));
  world.run_for(milliseconds(9900));
  EXPECT_FALSE(ended);
  EXPECT_EQ(world.server.stats().handshaking, 1u);
  world.run_for(milliseconds(200));
  EXPECT_TRUE(ended);
  EXPECT_EQ(world.server.stats().connections, 0u);
  EXPECT_EQ(world.server.stats().handshake_timeouts, 1u);
}

Task<void> dribble_handshake(SimServer& world, TestClient& client) {
  const std::string bytes = TestClient::handshake_bytes({});
  for (const char& one : bytes) {
    if (!(co_await client.stream().write_all(as_bytes({&one, 1}))).has_value()) co_return;
    co_await sleep_for(world.loop, seconds(1));
  }
}

TEST(SessionServer, TheHandshakeDeadlineIsAbsolute) {
  SimServer world({});
  TestClient client(world.dial());
  const auto begin = world.loop.clock().now();
  world.run(dribble_handshake(world, client));
  EXPECT_LE(world.loop.clock().now() - begin, seconds(12));
  EXPECT_EQ(world.server.stats().handshake_timeouts, 1u);
  EXPECT_EQ(world.server.stats().connections, 0u);
}

Task<void> connect_and_leave(SimServer& world, TestClient::Options options, bool& connected) {
  TestClient client(world.dial());
  connected = co_await client.connect(std::move(options));
  client.stream().close();
  co_await sleep_for(world.loop, milliseconds(1));
}

TEST(SessionServer, ASlowRegistryIsUnderTheDeadlineToo) {
  SimServer world({});
  world.registry.delay = seconds(30);
  bool connected = true;
  world.run(connect_and_leave(world, {}, connected));
  EXPECT_FALSE(connected);
  world.run_for(seconds(60));
  EXPECT_EQ(world.server.stats().connections, 0u);
}

TEST(SessionServer, AnUnknownExportIsRefused) {
  SimServer world({});
  bool connected = true;
  world.run(connect_and_leave(world, {.export_name = "other"}, connected));
  EXPECT_FALSE(connected);
  EXPECT_EQ(world.server.stats().connections, 0u);
  world.run(connect_and_leave(world, {.export_name = ""}, connected));
  EXPECT_TRUE(connected);
}

Task<void> abort_handshake(SimServer& world) {
  auto stream = world.dial();
  std::string bytes;
  append_be(bytes, proto::kFlagCFixedNewstyle);
  append_be(bytes, proto::kIHaveOpt);
  append_be(bytes, static_cast<uint32_t>(proto::Option::abort));
  append_be(bytes, uint32_t{0});
  EXPECT_TRUE((co_await stream->write_all(as_bytes(bytes))).has_value());
  std::array<std::byte, proto::kGreetingBytes + proto::kOptionReplyHeaderBytes> greeting_and_ack;
  EXPECT_TRUE((co_await stream->read_exactly(greeting_and_ack)).has_value());
  EXPECT_EQ(load_be<uint32_t>(greeting_and_ack.data() + proto::kGreetingBytes + 12),
            static_cast<uint32_t>(proto::OptionReply::ack));
  const auto end = co_await stream->read_some(greeting_and_ack);
  EXPECT_TRUE(end.has_value() && *end == 0);
  // A client that does not close its side is not waited for long.
  co_await sleep_for(world.loop, seconds(3));
  EXPECT_EQ(world.server.stats().connections, 0u);
}

TEST(SessionServer, AbortIsAcknowledgedAndEndsTheConnection) {
  SimServer world({});
  world.run(abort_handshake(world));
}

// --- Bounds on connections

TEST(SessionServer, BeyondTheBoundConnectionsAreClosedAndSessionsGoOn) {
  SessionLimits limits;
  limits.connections_count = 8;
  limits.handshaking_count = 3;
  SimServer world({.limits = limits, .fake = {}});
  TestClient session(world.dial());
  bool connected = false;
  const auto connect = [](TestClient& client, bool& done) -> Task<void> {
    done = co_await client.connect({});
  };
  world.run(connect(session, connected));
  EXPECT_TRUE(connected);
  std::vector<std::unique_ptr<TestClient>> idle;
  std::array<bool, 10> ended{};
  TaskScope scope;
  for (bool& one : ended) {
    idle.push_back(std::make_unique<TestClient>(world.dial()));
    scope.spawn(wait_for_end(*idle.back(), one));
  }
  world.run_for(seconds(1));
  EXPECT_EQ(std::count(ended.begin(), ended.end(), true), 7);
  EXPECT_EQ(world.server.stats().refused_connections, 7u);
  EXPECT_EQ(world.server.stats().handshaking, 3u);
  bool newcomer = false;
  world.run(connect_and_leave(world, {}, newcomer));
  EXPECT_TRUE(newcomer) << "silent peers kept a client out";
  const auto use = [](TestClient& client) -> Task<void> {
    const auto reply = co_await client.call({.command = Command::read, .length_bytes = 512});
    EXPECT_EQ(reply.error, NbdError::ok);
    client.stream().close();
  };
  world.run(use(session));
  world.run_for(seconds(11));
  EXPECT_EQ(world.server.stats().connections, 0u);
  bool again = false;
  world.run(connect_and_leave(world, {}, again));
  EXPECT_TRUE(again);
}

Task<void> connect_to(TestClient& client, bool& connected) {
  connected = co_await client.connect({});
}

Task<void> read_and_leave(TestClient& client) {
  const auto reply = co_await client.call({.command = Command::read, .length_bytes = 512});
  EXPECT_EQ(reply.error, NbdError::ok);
  client.stream().close();
}

TEST(SessionServer, NewLimitsHoldFromTheNextConnectionOn) {
  SimServer world({});
  TestClient first(world.dial());
  TestClient second(world.dial());
  bool connected = false;
  world.run(connect_to(first, connected));
  EXPECT_TRUE(connected);
  world.run(connect_to(second, connected));
  EXPECT_TRUE(connected);
  SessionLimits limits;
  limits.connections_count = 2;
  limits.handshake_timeout = seconds(2);
  world.server.set_limits(limits);
  world.run(connect_and_leave(world, {}, connected));
  EXPECT_FALSE(connected);
  world.run(read_and_leave(first));
  world.run_for(milliseconds(1));
  TestClient silent(world.dial());
  bool ended = false;
  TaskScope scope;
  scope.spawn(wait_for_end(silent, ended));
  world.run_for(milliseconds(1900));
  EXPECT_FALSE(ended);
  world.run_for(milliseconds(200));
  EXPECT_TRUE(ended);
  world.run(read_and_leave(second));
}

TEST(SessionServer, WhereItAcceptsNoMoreTheConnectionsStay) {
  SimServer world({});
  TestClient client(world.dial());
  bool connected = false;
  world.run(connect_to(client, connected));
  EXPECT_TRUE(connected);
  const std::vector<std::string> addresses = world.server.addresses();
  ASSERT_EQ(addresses.size(), 1U);
  world.server.stop_accepting("elsewhere");
  world.run_for(milliseconds(1));
  EXPECT_EQ(world.server.addresses(), addresses);
  world.server.stop_accepting(addresses.front());
  world.run_for(milliseconds(1));
  EXPECT_TRUE(world.server.addresses().empty());
  world.run(read_and_leave(client));
}

TEST(SessionServer, AFailedAcceptIsCountedAndAcceptingGoesOn) {
  SimServer world({});
  world.acceptor->fail_next({Errc::too_large, "out of file descriptors"});
  bool connected = false;
  world.run(connect_and_leave(world, {}, connected));
  EXPECT_TRUE(connected);
  EXPECT_EQ(world.server.stats().refused_connections, 1u);
}

// --- Stopping

TEST(SessionServer, AStopClosesConnectionsInHandshakeAtOnce) {
  SimServer world({});
  TestClient client(world.dial());
  bool ended = false;
  TaskScope scope;
  scope.spawn(wait_for_end(client, ended));
  world.run_for(milliseconds(10));
  const auto begin = world.loop.clock().now();
  world.stop();
  EXPECT_EQ(world.loop.clock().now(), begin);
  world.run_for(milliseconds(1));
  EXPECT_TRUE(ended);
}

Task<void> idle_session(SimServer& world, TestClient& client, Duration& waited) {
  EXPECT_TRUE(co_await client.connect({}));
  const auto nothing = co_await client.receive();
  EXPECT_FALSE(nothing.has_value());
  waited = world.loop.clock().now().time_since_epoch();
  client.stream().close();
}

TEST(SessionServer, AStopEndsIdleSessionsWithoutDelay) {
  SimServer world({});
  TestClient client(world.dial());
  Duration ended_at{};
  TaskScope scope;
  scope.spawn(idle_session(world, client, ended_at));
  world.run_for(seconds(5));
  world.stop();
  EXPECT_LT(ended_at, milliseconds(5100));
  EXPECT_EQ(world.server.stats().connections, 0u);
}

// --- One client on a stream of its own

Task<void> serve_one(SimServer& world, std::unique_ptr<net::Stream> stream, Result<void>& result) {
  result = co_await world.server.serve_stream(std::move(stream));
}

TEST(SessionServer, ServesAStreamThatItWasGiven) {
  SimServer world({});
  auto [client_end, server_end] = net::make_pipe(world.loop);
  TestClient client(std::move(client_end));
  Result<void> result = fail(Errc::invalid, "not done");
  TaskScope scope;
  scope.spawn(serve_one(world, std::move(server_end), result));
  const auto use = [](TestClient& one) -> Task<void> {
    EXPECT_TRUE(co_await one.connect({}));
    const auto reply = co_await one.call({.command = Command::read, .length_bytes = 512});
    EXPECT_EQ(reply.error, NbdError::ok);
    co_await one.send({.command = Command::disc});
    one.stream().close();
  };
  world.run(use(client));
  world.run_for(seconds(3));
  EXPECT_EQ(scope.running_count(), 0u);
  EXPECT_TRUE(result.has_value());
}

// --- Real threads and sockets

// Writes and checks its own part of the disk over a blocking descriptor.
void use_from_thread(net::OwnedFd fd, uint64_t part, std::atomic<int>& good) {
  net::IoLoop loop;
  TestClient client(net::make_socket_stream(std::move(fd)));
  if (!client.stream().attach(loop)) return;
  const auto use = [](TestClient& one, uint64_t offset, std::atomic<int>& counted) -> Task<void> {
    if (!co_await one.connect({})) co_return;
    for (int round = 0; round < 50; ++round) {
      const auto value = static_cast<std::byte>(round + 1);
      for (uint64_t i = 0; i < 16; ++i) {
        co_await one.send(
            {.command = Command::write, .offset_bytes = offset + i * 4096, .length_bytes = 4096},
            std::vector<std::byte>(4096, value));
      }
      for (int i = 0; i < 16; ++i) {
        const auto reply = co_await one.receive();
        if (!reply || reply->error != NbdError::ok) co_return;
      }
      const auto reply =
          co_await one.call({.command = Command::read, .offset_bytes = offset, .length_bytes = 65536});
      if (reply.data != std::vector<std::byte>(65536, value)) co_return;
    }
    co_await one.send({.command = Command::disc});
    counted.fetch_add(1);
  };
  loop.run(use(client, part * 65536, good));
}

TEST(SessionServer, SessionsRunOnTheThreadOfTheirExport) {
  net::IoLoop loop;
  net::IoThread volumes("volumes");
  FakeRegistry registry;
  auto exported = std::make_shared<FakeExport>(volumes.loop(), FakeExport::Options{});
  const std::weak_ptr<FakeExport> watched = exported;
  registry.add(std::move(exported));
  std::atomic<int> good = 0;
  std::vector<std::thread> clients;
  {
    SessionServer server(loop, registry, {});
    auto acceptors = net::listen(loop, net::parse_endpoint("tcp://127.0.0.1:0").value());
    ASSERT_TRUE(acceptors);
    server.serve(std::move(acceptors->front()));
    TaskScope scope;
    const auto serve = [](SessionServer& one, std::unique_ptr<net::Stream> stream) -> Task<void> {
      const auto result = co_await one.serve_stream(std::move(stream));
      EXPECT_TRUE(result.has_value());
    };
    for (uint64_t i = 0; i < 4; ++i) {
      auto pair = net::make_socket_pair();
      ASSERT_TRUE(pair && pair->first->attach(loop));
      scope.spawn(serve(server, std::move(pair->first)));
      clients.emplace_back(
          [fd = std::move(pair->second), i, &good]() mutable { use_from_thread(std::move(fd), i, good); });
    }
    const auto wait = [](TaskScope& all) -> Task<void> { co_await all.join(); };
    loop.run(wait(scope));
    EXPECT_EQ(server.stats().requests, 4u * 50 * 17);
    loop.run(server.stop(seconds(1)));
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good.load(), 4);
  EXPECT_FALSE(watched.expired());
}

}  // namespace
}  // namespace fdbnbd::session
