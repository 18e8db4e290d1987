#include "net/stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "base/random.h"
#include "net/fd_stream.h"
#include "net/io_loop.h"
#include "net/pipe_stream_testing.h"
#include "net/socket_testing.h"

namespace fdbnbd::net {
namespace {

std::vector<std::byte> random_bytes(size_t count, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next());
  return bytes;
}

Task<void> send_all(Stream& stream, const std::vector<std::byte>& bytes, Random& random) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    std::vector<ByteView> parts;
    for (size_t i = random.below(600); i-- > 0 && sent < bytes.size();) {
      const size_t count = std::min(bytes.size() - sent, size_t{1} + random.below(3000));
      parts.push_back(ByteView(bytes).subspan(sent, count));
      sent += count;
    }
    const auto written = co_await stream.write_all(std::move(parts));
    EXPECT_TRUE(written.has_value());
  }
  stream.shutdown_write();
}

Task<void> receive_all(Stream& stream, std::vector<std::byte>& into) {
  std::vector<std::byte> buffer(5000);
  for (;;) {
    const auto count = co_await stream.read_some(buffer);
    if (!count) ADD_FAILURE() << count.error().what;
    if (!count || *count == 0) co_return;
    into.insert(into.end(), buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(*count));
  }
}

Task<void> exchange(Stream& a, Stream& b, Random& random) {
  const auto to_b = random_bytes(3'000'000, 1);
  const auto to_a = random_bytes(1'000'000, 2);
  std::vector<std::byte> at_a;
  std::vector<std::byte> at_b;
  TaskScope scope;
  scope.spawn(send_all(a, to_b, random));
  scope.spawn(send_all(b, to_a, random));
  scope.spawn(receive_all(a, at_a));
  scope.spawn(receive_all(b, at_b));
  co_await scope.join();
  EXPECT_TRUE(at_b == to_b);
  EXPECT_TRUE(at_a == to_a);
}

TEST(PipeStream, CarriesBytesBothWaysUnderAnySchedule) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SimLoop loop(seed);
    Random random(seed);
    auto [a, b] = make_pipe(loop, {.capacity_bytes = 1 + random.below(100'000), .random = &random});
    if (seed % 2 == 0) std::tie(a, b) = make_pipe(loop);
    loop.run(exchange(*a, *b, random));
  }
}

TEST(SocketStream, CarriesBytesBothWays) {
  IoLoop loop;
  Random random(3);
  auto pair = make_socket_pair();
  ASSERT_TRUE(pair);
  const auto b = make_socket_stream(std::move(pair->second));
  ASSERT_TRUE(pair->first->attach(loop));
  ASSERT_TRUE(b->attach(loop));
  loop.run(exchange(*pair->first, *b, random));
}

TEST(FdStream, CarriesBytesOverTwoPipes) {
  ::signal(SIGPIPE, SIG_IGN);
  IoLoop loop;
  Random random(4);
  int up[2];
  int down[2];
  ASSERT_EQ(::pipe(up), 0);
  ASSERT_EQ(::pipe(down), 0);
  const auto a = make_fd_stream(up[0], down[1]);
  const auto b = make_fd_stream(down[0], up[1]);
  ASSERT_TRUE(a->attach(loop));
  ASSERT_TRUE(b->attach(loop));
  loop.run(exchange(*a, *b, random));
}

TEST(FdStream, ReadsAFileToItsEnd) {
  IoLoop loop;
  TemporaryDirectory directory;
  const int file = ::open((directory / "file").c_str(), O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(::write(file, "hello", 5), 5);
  ::lseek(file, 0, SEEK_SET);
  const auto stream = make_fd_stream(file, ::open("/dev/null", O_WRONLY));
  ASSERT_TRUE(stream->attach(loop));
  std::vector<std::byte> got;
  loop.run(receive_all(*stream, got));
  EXPECT_EQ(as_text(got), "hello");
}

Task<void> read_until_error(Stream& stream, Error& error) {
  std::byte byte{};
  auto read = co_await stream.read_some({&byte, 1});
  error = read ? Error{Errc::invalid, "no error"} : read.error();
}

Task<void> close_while_reading(Executor& executor, Stream& stream) {
  Error error;
  TaskScope scope;
  scope.spawn(read_until_error(stream, error));
  co_await reschedule(executor);
  stream.close();
  co_await scope.join();
  EXPECT_EQ(error.code, Errc::cancelled);
}

TEST(Stream, CloseEndsAWaitInProgress) {
  IoLoop loop;
  auto pair = make_socket_pair();
  ASSERT_TRUE(pair && pair->first->attach(loop));
  loop.run(close_while_reading(loop, *pair->first));
  SimLoop sim(1);
  auto [a, b] = make_pipe(sim);
  sim.run(close_while_reading(sim, *a));
}

Task<void> move_and_echo(std::unique_ptr<Stream> stream, Executor& from, Executor& to) {
  std::byte buffer[3];
  EXPECT_TRUE((co_await stream->read_exactly(buffer)).has_value());
  stream->detach();
  co_await reschedule(to);
  EXPECT_TRUE(stream->attach(to).has_value());
  EXPECT_TRUE((co_await stream->write_all(buffer)).has_value());
  EXPECT_TRUE((co_await stream->read_exactly(buffer)).has_value());
  EXPECT_TRUE((co_await stream->write_all(buffer)).has_value());
  stream->close();
  stream.reset();
  co_await reschedule(from);
}

TEST(Stream, MovesToAnotherLoop) {
  IoLoop loop;
  IoThread other("other");
  auto pair = make_socket_pair();
  ASSERT_TRUE(pair && pair->first->attach(loop));
  const int client = pair->second.get();
  std::thread peer([client] {
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(::send(client, "abc", 3, 0), 3);
      char back[3] = {};
      EXPECT_EQ(::recv(client, back, 3, MSG_WAITALL), 3);
      EXPECT_EQ(std::string(back, 3), "abc");
    }
  });
  loop.run(move_and_echo(std::move(pair->first), loop, other.loop()));
  peer.join();
  SimLoop sim(1);
  auto unattached = make_socket_pair();
  EXPECT_EQ(unattached->first->attach(sim).error().code, Errc::invalid);
}

TEST(SocketStream, SeesTheEndBehindAShortRead) {
  IoLoop loop;
  for (int i = 0; i < 50; ++i) {
    auto pair = make_socket_pair();
    ASSERT_TRUE(pair && pair->first->attach(loop));
    ASSERT_EQ(::send(pair->second.get(), "bye", 3, 0), 3);
    if (i % 2 == 0) pair->second.reset();
    std::thread later([&pair] { pair->second.reset(); });
    std::vector<std::byte> got;
    loop.run(receive_all(*pair->first, got));
    later.join();
    EXPECT_EQ(as_text(got), "bye");
  }
}

TEST(SocketStream, AResetIsAPeerGone) {
  IoLoop loop;
  auto acceptors = listen_at(loop, "tcp://127.0.0.1:0");
  ASSERT_EQ(acceptors.size(), 1u);
  OwnedFd client = connect_to(acceptors[0]->address());
  auto stream = loop.run(acceptors[0]->accept());
  ASSERT_TRUE(stream);
  const linger hard{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(client.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  client.reset();
  Error error;
  loop.run(read_until_error(**stream, error));
  EXPECT_EQ(error.code, Errc::peer_gone);
}

}  // namespace
}  // namespace fdbnbd::net
