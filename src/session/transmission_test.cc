#include "session/transmission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "session/sim_server_testing.h"

// Sessions against a fake Export on a simulated loop: one thread, no sockets, no real time.

namespace fdbnbd::session {
namespace {

using proto::ChunkType;
using proto::Command;
using proto::NbdError;
using proto::Request;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;

constexpr uint64_t kMiB = limits::kMiB;

// --- What commands do

Task<void> use_every_command(SimServer& world, bool structured) {
  TestClient client(world.dial());
  const bool connected = co_await client.connect({.structured = structured});
  EXPECT_TRUE(connected);
  EXPECT_EQ(client.size_bytes(), world.exported->bytes().size());

  auto reply = co_await client.call(write_request(4000, 1000), filled(1000, 7));
  EXPECT_EQ(reply.error, NbdError::ok);
  reply = co_await client.call(read_request(3999, 1002));
  EXPECT_EQ(reply.error, NbdError::ok);
  EXPECT_EQ(reply.data.front(), std::byte{0});
  EXPECT_EQ(reply.data[1], std::byte{7});
  EXPECT_EQ(reply.data[1000], std::byte{7});
  EXPECT_EQ(reply.data.back(), std::byte{0});
  reply = co_await client.call(plain_request(Command::flush, 0, 0));
  EXPECT_EQ(reply.error, NbdError::ok);
  reply = co_await client.call(plain_request(Command::cache, 0, 8192));
  EXPECT_EQ(reply.error, NbdError::ok);
  reply = co_await client.call(plain_request(Command::write_zeroes, 4000, 500, proto::kCmdFlagNoHole));
  EXPECT_EQ(reply.error, NbdError::ok);
  reply = co_await client.call(plain_request(Command::trim, 4500, 499, proto::kCmdFlagFua));
  EXPECT_EQ(reply.error, NbdError::ok);
  reply = co_await client.call(read_request(4000, 1000));
  EXPECT_EQ(std::count(reply.data.begin(), reply.data.end(), std::byte{0}), 999);
  EXPECT_EQ(reply.data.back(), std::byte{7});
  if (structured) {
    reply = co_await client.call(plain_request(Command::block_status, 0, 12288));
    EXPECT_THAT(reply.extents,
                ElementsAre(std::pair(4096u, proto::kStateHole | proto::kStateZero), std::pair(4096u, 0u),
                            std::pair(4096u, proto::kStateHole | proto::kStateZero)));
  }
  co_await client.disconnect();
}

TEST(Transmission, ServesEveryCommandWithStructuredReplies) {
  SimServer world({});
  world.run(use_every_command(world, true));
  EXPECT_EQ(world.server.stats().protocol_errors, 0u);
}

TEST(Transmission, ServesEveryCommandWithSimpleReplies) {
  SimServer world({});
  world.run(use_every_command(world, false));
}

Task<void> read_holes(SimServer& world) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  std::ranges::fill(std::span(world.exported->bytes()).subspan(8192, 4096), std::byte{1});
  auto reply = co_await client.call(read_request(0, 20480));
  EXPECT_THAT(
      reply.chunks,
      ElementsAre(ClientChunk{.type = ChunkType::offset_hole, .offset_bytes = 0, .length_bytes = 8192},
                  ClientChunk{.type = ChunkType::offset_data, .offset_bytes = 8192, .length_bytes = 4096},
                  ClientChunk{.type = ChunkType::offset_hole, .offset_bytes = 12288, .length_bytes = 8192}));
  reply = co_await client.call(read_request(0, 20480, proto::kCmdFlagDf));
  EXPECT_THAT(reply.chunks, ElementsAre(ClientChunk{
                                .type = ChunkType::offset_data, .offset_bytes = 0, .length_bytes = 20480}));
  EXPECT_EQ(std::count(reply.data.begin(), reply.data.end(), std::byte{1}), 4096);
  EXPECT_EQ(std::count(reply.data.begin(), reply.data.end(), std::byte{0}), 16384);
  reply = co_await client.call(read_request(65536, 65536, proto::kCmdFlagDf));
  EXPECT_THAT(
      reply.chunks,
      ElementsAre(ClientChunk{.type = ChunkType::offset_hole, .offset_bytes = 65536, .length_bytes = 65536}));
  reply = co_await client.call(read_request(8192, 4096));
  EXPECT_EQ(reply.chunks.size(), 1u);
  EXPECT_EQ(reply.chunks.front().type, ChunkType::offset_data);
  co_await client.disconnect();
}

TEST(Transmission, HolesAreHoleChunksUnlessTheClientForbidsFragments) {
  SimServer world({});
  world.run(read_holes(world));
}

Task<void> read_fragmented(SimServer& world) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  auto& bytes = world.exported->bytes();
  for (size_t at = 0; at < bytes.size(); at += 8192) bytes[at] = static_cast<std::byte>(at / 8192 % 255 + 1);
  const auto reply = co_await client.call(read_request(0, static_cast<uint32_t>(bytes.size())));
  EXPECT_EQ(reply.chunks.size(), bytes.size() / 4096);
  EXPECT_TRUE(reply.data == bytes);
  co_await client.disconnect();
}

TEST(Transmission, AReplyMayHaveMorePartsThanOneSendTakes) {
  SimServer world({.limits = {}, .fake = {.size_bytes = 8 * kMiB}});
  world.run(read_fragmented(world));
}

Task<void> zero_lengths(SimServer& world, bool structured) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({.structured = structured}));
  for (const Command command :
       {Command::read, Command::write, Command::trim, Command::cache, Command::write_zeroes}) {
    const auto reply = co_await client.call(plain_request(command, 0, 0));
    EXPECT_EQ(reply.error, NbdError::ok) << command_name(command);
  }
  co_await client.disconnect();
}

TEST(Transmission, RequestsOfNoBytesSucceedWithoutTheExport) {
  SimServer world({});
  world.exported->on_operation = [](const std::string& operation, uint64_t, uint64_t) {
    ADD_FAILURE() << operation;
    return std::nullopt;
  };
  world.run(zero_lengths(world, true));
  world.run(zero_lengths(world, false));
}

Task<void> status_limits(SimServer& world) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  auto& bytes = world.exported->bytes();
  for (size_t at = 0; at < bytes.size(); at += 8192) bytes[at] = std::byte{1};
  auto reply = co_await client.call(plain_request(Command::block_status, 0, 4096 * 9, proto::kCmdFlagReqOne));
  EXPECT_THAT(reply.extents, ElementsAre(std::pair(4096u, 0u)));
  reply = co_await client.call(plain_request(Command::block_status, 100, 4096 * 9));
  EXPECT_EQ(reply.extents.front().first, 3996u);
  uint64_t total = 0;
  for (const auto& [length, flags] : reply.extents) total += length;
  EXPECT_LE(total, 4096u * 9);
  EXPECT_GE(reply.extents.size(), 9u);
  co_await client.disconnect();
}

TEST(Transmission, BlockStatusKeepsToTheRequest) {
  SimServer world({});
  world.run(status_limits(world));
}

// --- Errors that answer a command

Task<void> provoke_errors(SimServer& world, bool structured) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({.structured = structured}));
  const uint64_t end = client.size_bytes();
  struct Case {
    Request request;
    NbdError error;
  };
  const std::vector<Case> cases = {
      {read_request(end - 512, 1024), NbdError::einval},
      {read_request(UINT64_MAX - 511, 1024), NbdError::einval},
      {write_request(end - 512, 1024), NbdError::enospc},
      {plain_request(Command::trim, end, 1), NbdError::einval},
      {plain_request(Command::write_zeroes, end - 1, UINT32_MAX), NbdError::enospc},
      {plain_request(Command::cache, end, 1), NbdError::einval},
      {plain_request(Command::flush, 512, 0), NbdError::einval},
      {plain_request(Command{99}, 0, 4096), NbdError::einval},
      {read_request(0, 512, proto::kCmdFlagReqOne), NbdError::einval},
      {plain_request(Command::block_status, end, 1), NbdError::einval},
      {read_request(0, 33 * kMiB), NbdError::einval},
      {write_request(0, 33 * kMiB), NbdError::einval},
      {plain_request(Command::write_zeroes, 0, 4096, proto::kCmdFlagFastZero | proto::kCmdFlagNoHole),
       NbdError::enotsup},
  };
  for (const Case& one : cases) {
    const uint32_t payload = one.request.command == Command::write ? one.request.length_bytes : 0;
    const auto reply = co_await client.call(one.request, filled(payload, 1));
    EXPECT_EQ(reply.error, one.error)
        << command_name(one.request.command) << " at " << one.request.offset_bytes;
    EXPECT_TRUE(reply.chunks.empty());
  }
  // Nothing got through, and the stream is in step.
  const auto reply = co_await client.call(read_request(0, static_cast<uint32_t>(end)));
  EXPECT_TRUE(is_all_zero(reply.data));
  EXPECT_EQ(reply.data.size(), end);
  co_await client.disconnect();
}

TEST(Transmission, InvalidRequestsAreAnsweredAndTheStreamStaysInStep) {
  SimServer world({});
  world.run(provoke_errors(world, true));
  world.run(provoke_errors(world, false));
  EXPECT_EQ(world.server.stats().bytes_in_flight, 0u);
}

Task<void> fail_in_the_store(SimServer& world, bool structured) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({.structured = structured}));
  auto reply = co_await client.call(write_request(0, 4096), filled(4096, 1));
  EXPECT_EQ(reply.error, NbdError::enospc);
  reply = co_await client.call(read_request(0, 4096));
  EXPECT_EQ(reply.error, NbdError::eio);
  reply = co_await client.call(plain_request(Command::flush, 0, 0));
  EXPECT_EQ(reply.error, NbdError::ok);
  co_await client.disconnect();
}

TEST(Transmission, ErrorsOfTheStoreReachTheClient) {
  SimServer world({});
  world.exported->on_operation = [](const std::string& operation, uint64_t,
                                    uint64_t) -> std::optional<Error> {
    if (operation == "write") return Error{Errc::no_space, "the disk is full"};
    if (operation == "read") return Error{Errc::corruption, "bad checksum"};
    return std::nullopt;
  };
  world.run(fail_in_the_store(world, true));
  world.run(fail_in_the_store(world, false));
}

Task<void> write_read_only(SimServer& world) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  for (const Command command : {Command::write, Command::trim, Command::write_zeroes}) {
    const auto reply =
        co_await client.call(plain_request(command, 0, 512), filled(command == Command::write ? 512 : 0, 1));
    EXPECT_EQ(reply.error, NbdError::eperm);
  }
  co_await client.disconnect();
}

TEST(Transmission, AReadOnlyExportRefusesChanges) {
  SimServer world({.limits = {}, .fake = {.read_only = true}});
  world.run(write_read_only(world));
}

// --- Order

Task<void> pipeline(SimServer& world, std::vector<uint64_t>& order) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  std::string batch;
  for (int i = 0; i < 100; ++i) {
    Request request = read_request(static_cast<uint64_t>(i) * 4096, 4096);
    batch += client.encode(request);
  }
  EXPECT_TRUE((co_await client.stream().write_all(as_bytes(batch))).has_value());
  while (client.in_flight_count() > 0) {
    const auto reply = co_await client.receive();
    if (!reply) co_return;
    EXPECT_EQ(reply->error, NbdError::ok);
    order.push_back(reply->cookie);
  }
  co_await client.disconnect();
}

TEST(Transmission, PipelinedRequestsAreAnsweredInTheOrderTheyEnd) {
  SimServer world({.limits = {}, .fake = {}, .random_pipes = true, .random_delays = true});
  std::vector<uint64_t> order;
  world.run(pipeline(world, order));
  EXPECT_EQ(order.size(), 100u);
  EXPECT_FALSE(std::ranges::is_sorted(order));
}

Task<void> send_batch_while_held(SimServer& world, TestClient& client) {
  EXPECT_TRUE(co_await client.connect({}));
  std::string batch;
  for (int i = 0; i < 32; ++i) {
    Request request = write_request(static_cast<uint64_t>(i) * 4096, 4096);
    batch += client.encode(request, filled(4096, i + 1));
  }
  EXPECT_TRUE((co_await client.stream().write_all(as_bytes(batch))).has_value());
  co_await sleep_for(world.loop, milliseconds(1));
}

TEST(Transmission, TheExportSeesAllRequestsOfABatch) {
  SimServer world({.limits = {}, .fake = {}, .pipe_bytes = kMiB});
  world.exported->hold();
  TestClient client(world.dial());
  world.run(send_batch_while_held(world, client));
  EXPECT_EQ(world.exported->running_count(), 32u);
  EXPECT_EQ(world.server.stats().requests_in_flight, 32u);
  client.stream().close();
  world.exported->let_go();
}

// --- The end of a connection

Task<void> writes_then_end(SimServer& world, bool disc, size_t& replies) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  std::string batch;
  for (int i = 0; i < 32; ++i) {
    Request request = write_request(static_cast<uint64_t>(i) * 4096, 4096);
    batch += client.encode(request, filled(4096, i + 1));
  }
  Request last{.command = Command::disc};
  if (disc) batch += client.encode(last);
  EXPECT_TRUE((co_await client.stream().write_all(as_bytes(batch))).has_value());
  if (!disc) client.stream().shutdown_write();
  co_await client.receive_until_end(replies);
  client.stream().close();
}

TEST(Transmission, DisconnectWith32WritesInFlightGets32Replies) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SimServer world({.seed = seed, .limits = {}, .fake = {}, .random_pipes = true, .random_delays = true});
    size_t replies = 0;
    world.run(writes_then_end(world, true, replies));
    EXPECT_EQ(replies, 32u) << "seed " << seed;
    EXPECT_EQ(world.exported->bytes()[31 * 4096], std::byte{32});
  }
}

TEST(Transmission, AClientThatHasSaidItsLastWordGetsEveryReply) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SimServer world({.seed = seed, .limits = {}, .fake = {}, .random_pipes = true, .random_delays = true});
    size_t replies = 0;
    world.run(writes_then_end(world, false, replies));
    EXPECT_EQ(replies, 32u) << "seed " << seed;
  }
}

TEST(Transmission, ADiskThatGoesOnElsewhereEndsTheConnectionWithoutAnAnswer) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SimServer world({.seed = seed, .limits = {}, .fake = {}, .random_pipes = true, .random_delays = true});
    world.exported->on_operation = [](const std::string&, uint64_t offset_bytes,
                                      uint64_t) -> std::optional<Error> {
      if (offset_bytes < 16 * 4096) return std::nullopt;
      return Error{Errc::cancelled, "handed over"};
    };
    size_t replies = 0;
    world.run(writes_then_end(world, false, replies));
    EXPECT_EQ(replies, 16u) << "those before it; seed " << seed;
  }
}

// The bytes of a whole session, with the places where a WRITE becomes complete.
struct Script {
  std::string bytes;
  std::vector<std::pair<size_t, uint64_t>> complete_writes;  // bytes needed, offset written
};

Script make_script() {
  Script script;
  script.bytes = TestClient::handshake_bytes({});
  TestClient encoder(nullptr);
  for (uint64_t i = 0; i < 3; ++i) {
    Request write = write_request(i * 4096, 40);
    script.bytes += encoder.encode(write, filled(40, 9));
    script.complete_writes.emplace_back(script.bytes.size(), i * 4096);
    Request read = read_request(i * 4096, 64);
    script.bytes += encoder.encode(read);
  }
  Request bad = write_request(UINT64_MAX, 50);
  script.bytes += encoder.encode(bad, filled(50, 9));
  return script;
}

Task<void> discard_until_end(net::Stream& stream) {
  std::array<std::byte, 4096> buffer;
  for (;;) {
    const auto count = co_await stream.read_some(buffer);
    if (!count || *count == 0) co_return;
  }
}

Task<void> send_prefix(SimServer& world, const Script& script, size_t count, bool half_close) {
  const auto stream = world.dial();
  TaskScope reader;
  reader.spawn(discard_until_end(*stream));
  (void)co_await stream->write_all(as_bytes(std::string_view(script.bytes).substr(0, count)));
  if (half_close) {
    stream->shutdown_write();
    co_await reader.join();
  } else {
    co_await sleep_for(world.loop, milliseconds(1));
  }
  stream->close();
  co_await reader.join();
  co_await sleep_for(world.loop, seconds(3));
}

TEST(Transmission, ACutAtAnyByteAppliesWholeWritesOnly) {
  const Script script = make_script();
  for (size_t count = 0; count <= script.bytes.size(); ++count) {
    SimServer world({.seed = count + 1, .limits = {}, .fake = {}, .random_pipes = count % 2 == 0});
    world.run(send_prefix(world, script, count, count % 3 != 0));
    EXPECT_EQ(world.server.stats().connections, 0u) << count;
    EXPECT_EQ(world.server.stats().bytes_in_flight, 0u) << count;
    for (const auto& [needed, offset] : script.complete_writes) {
      const std::byte expected{static_cast<unsigned char>(count >= needed ? 9 : 0)};
      EXPECT_EQ(world.exported->bytes()[offset], expected) << "cut at " << count;
      EXPECT_EQ(world.exported->bytes()[offset + 39], expected) << "cut at " << count;
    }
  }
}

TEST(Transmission, TheResultDoesNotDependOnHowTheBytesAreCut) {
  const Script script = make_script();
  for (const size_t pipe_bytes : {size_t{1}, size_t{27}, size_t{29}, size_t{1} << 20}) {
    SimServer world({.limits = {}, .fake = {}, .pipe_bytes = pipe_bytes});
    world.run(send_prefix(world, script, script.bytes.size(), true));
    EXPECT_EQ(world.exported->bytes()[2 * 4096 + 39], std::byte{9});
    EXPECT_EQ(world.server.stats().requests, 7u);
  }
}

Task<void> break_the_protocol(SimServer& world, std::string garbage, size_t& replies) {
  TestClient client(world.dial());
  EXPECT_TRUE(co_await client.connect({}));
  Request first = write_request(0, 16);
  Request second = write_request(4096, 16);
  const std::string batch =
      client.encode(first, filled(16, 1)) + garbage + client.encode(second, filled(16, 1));
  (void)co_await client.stream().write_all(as_bytes(batch));
  co_await client.receive_until_end(replies);
  client.stream().close();
}

TEST(Transmission, ABadMagicEndsTheConnectionAndNothingBehindItRuns) {
  SimServer world({});
  size_t replies = 0;
  world.run(break_the_protocol(world, std::string(28, 'x'), replies));
  EXPECT_EQ(world.exported->bytes()[4096], std::byte{0});
  EXPECT_EQ(world.server.stats().protocol_errors, 1u);
}

TEST(Transmission, AHugeWriteEndsTheConnectionWithoutMemory) {
  SimServer world({});
  TestClient encoder(nullptr);
  Request huge = write_request(0, UINT32_MAX);
  size_t replies = 0;
  world.run(break_the_protocol(world, encoder.encode(huge), replies));
  EXPECT_EQ(world.exported->bytes()[4096], std::byte{0});
  EXPECT_EQ(world.server.stats().protocol_errors, 1u);
}

}  // namespace
}  // namespace fdbnbd::session
