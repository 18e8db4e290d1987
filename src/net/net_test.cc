#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "base/random.h"
#include "net/endpoint.h"
#include "net/fd_stream.h"
#include "net/io_loop.h"
#include "net/listener.h"
#include "net/pipe_stream_testing.h"
#include "net/service_manager.h"
#include "net/signals.h"

namespace fdbnbd::net {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    char name[] = "/tmp/fdb-nbd-net-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A client's blocking connection to `address`, as an Acceptor reports it.
OwnedFd connect_to(const std::string& address) {
  const Endpoint endpoint = parse_endpoint(address).value();
  if (endpoint.kind == Endpoint::Kind::unix_socket) {
    OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::memcpy(to.sun_path, endpoint.path.data(), endpoint.path.size());
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) fd.reset();
    return fd;
  }
  OwnedFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(endpoint.port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) fd.reset();
  return fd;
}

Acceptors listen_at(IoLoop& loop, const std::string& where) {
  auto acceptors = listen(loop, parse_endpoint(where).value());
  if (!acceptors) ADD_FAILURE() << acceptors.error().what;
  return acceptors ? std::move(*acceptors) : Acceptors();
}

std::string read_available(int fd) {
  std::string text(64, '\0');
  const ssize_t n = ::recv(fd, text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

// --- IoLoop

struct CountedWork final : Work {
  void run() noexcept override {
    if (++*count == target) loop->stop();
  }
  int* count = nullptr;
  int target = 0;
  IoLoop* loop = nullptr;
};

TEST(IoLoop, RunsWhatOtherThreadsPostAndWakesUpForIt) {
  IoLoop loop;
  constexpr int kThreads = 4;
  constexpr int kPosts = 2000;
  int count = 0;
  std::vector<CountedWork> works(kThreads * kPosts);
  for (CountedWork& work : works) {
    work.count = &count;
    work.target = kThreads * kPosts;
    work.loop = &loop;
  }
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&works, &loop, t] {
      for (int i = 0; i < kPosts; ++i) loop.post(works[static_cast<size_t>(t * kPosts + i)]);
    });
  }
  loop.run();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, kThreads * kPosts);
}

Task<void> ping_pong(Executor& here, Executor& there, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    EXPECT_TRUE(here.runs_here());
    co_await reschedule(there);
    EXPECT_TRUE(there.runs_here() && !here.runs_here());
    co_await reschedule(here);
  }
}

TEST(IoLoop, ACoroutineMovesBetweenThreads) {
  IoLoop loop;
  IoThread other("other");
  loop.run(ping_pong(loop, other.loop(), 1000));
}

Task<std::string> sleep_in_order(Executor& executor) {
  std::string order;
  co_await sleep_for(executor, milliseconds(2));
  order += 'a';
  co_await sleep_for(executor, milliseconds(1));
  order += 'b';
  co_return order;
}

TEST(IoLoop, TimersEndAnIdleWait) {
  IoLoop loop;
  const auto begin = loop.clock().now();
  EXPECT_EQ(loop.run(sleep_in_order(loop)), "ab");
  EXPECT_GE(loop.clock().now() - begin, milliseconds(3));
}

TEST(IoLoop, IsFoundBehindAnExecutor) {
  IoLoop loop;
  SimLoop sim(1);
  EXPECT_EQ(IoLoop::from(loop), &loop);
  EXPECT_EQ(IoLoop::from(sim), nullptr);
}

// --- Streams

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

// --- Endpoints

TEST(Endpoint, ParsesWhatListenTakes) {
  const auto tcp = [](std::string host, uint16_t port) {
    return Endpoint{.kind = Endpoint::Kind::tcp, .host = std::move(host), .port = port, .path = ""};
  };
  EXPECT_EQ(parse_endpoint("tcp://127.0.0.1:10809").value(), tcp("127.0.0.1", 10809));
  EXPECT_EQ(parse_endpoint("tcp://localhost").value(), tcp("localhost", 10809));
  EXPECT_EQ(parse_endpoint("tcp://[::1]:0").value(), tcp("::1", 0));
  EXPECT_EQ(parse_endpoint("tcp://[::1]").value(), tcp("::1", 10809));
  EXPECT_EQ(parse_endpoint("tcp://*:7").value(), tcp("", 7));
  EXPECT_EQ(parse_endpoint("tcp://:7").value(), tcp("", 7));
  EXPECT_EQ(parse_endpoint("unix:/run/x").value().path, "/run/x");
  for (const char* text : {"tcp://[::1]:5", "tcp://h:65535", "tcp://*:0", "unix:relative"}) {
    EXPECT_EQ(to_string(parse_endpoint(text).value()), text);
  }
  for (const char* text : {"", "tcp:", "10809", "tcp://h:65536", "tcp://h:-1", "tcp://h:", "tcp://::1:80",
                           "tcp://[::1", "tcp://[::1]x", "tcp://h/x:1", "unix:", "http://h"}) {
    const auto parsed = parse_endpoint(text);
    ASSERT_FALSE(parsed.has_value()) << text;
    EXPECT_EQ(parsed.error().code, Errc::invalid) << text;
  }
  EXPECT_FALSE(parse_endpoint("unix:" + std::string(108, 'x')));
}

// --- Listeners

TEST(Listener, ReportsThePortInUseAndAcceptsThere) {
  IoLoop loop;
  auto acceptors = listen_at(loop, "tcp://127.0.0.1:0");
  ASSERT_EQ(acceptors.size(), 1u);
  EXPECT_NE(parse_endpoint(acceptors[0]->address()).value().port, 0);
  const OwnedFd client = connect_to(acceptors[0]->address());
  auto stream = loop.run(acceptors[0]->accept());
  ASSERT_TRUE(stream);
  EXPECT_THAT((*stream)->peer(), testing::StartsWith("tcp 127.0.0.1:"));
  ASSERT_TRUE(loop.run((*stream)->write_all(as_bytes("hello"))));
  EXPECT_EQ(read_available(client.get()), "hello");
}

TEST(Listener, ANameMayHaveSeveralAddressesOnOnePort) {
  IoLoop loop;
  const auto acceptors = listen_at(loop, "tcp://localhost:0");
  ASSERT_GE(acceptors.size(), 1u);
  for (const auto& acceptor : acceptors) {
    EXPECT_EQ(parse_endpoint(acceptor->address()).value().port,
              parse_endpoint(acceptors[0]->address()).value().port);
  }
}

TEST(Listener, APortInUseIsBusy) {
  IoLoop loop;
  const auto first = listen_at(loop, "tcp://127.0.0.1:0");
  const auto second = listen(loop, parse_endpoint(first[0]->address()).value());
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code, Errc::busy);
  EXPECT_THAT(second.error().what, HasSubstr(first[0]->address()));
}

TEST(Listener, RemoteAddressesNeedPermission) {
  IoLoop loop;
  const auto refused = listen(loop, parse_endpoint("tcp://0.0.0.0:0").value());
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Errc::permission);
  EXPECT_TRUE(listen(loop, parse_endpoint("tcp://0.0.0.0:0").value(), {.allow_remote = true}));
  EXPECT_TRUE(listen(loop, parse_endpoint("tcp://*:0").value(), {.allow_remote = true}));
}

TEST(Listener, AnUnknownHostIsNotFound) {
  IoLoop loop;
  EXPECT_EQ(listen(loop, parse_endpoint("tcp://no-such-host.invalid:1").value()).error().code,
            Errc::not_found);
}

TEST(Listener, TheSocketFileOfADeadServerIsReplacedAndALiveOneIsBusy) {
  IoLoop loop;
  TemporaryDirectory directory;
  const std::string path = directory / "sock";
  {
    const OwnedFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  auto acceptors = listen_at(loop, "unix:" + path);
  ASSERT_EQ(acceptors.size(), 1u);
  EXPECT_EQ(acceptors[0]->address(), "unix:" + path);
  EXPECT_EQ(listen(loop, parse_endpoint("unix:" + path).value()).error().code, Errc::busy);
  const OwnedFd client = connect_to("unix:" + path);
  auto stream = loop.run(acceptors[0]->accept());
  ASSERT_TRUE(stream);
  EXPECT_THAT((*stream)->peer(), HasSubstr("pid " + std::to_string(::getpid())));
  acceptors[0]->close();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Listener, LeavesAFileOfAnotherKindAlone) {
  IoLoop loop;
  TemporaryDirectory directory;
  const std::string path = directory / "file";
  OwnedFd(::open(path.c_str(), O_CREAT | O_WRONLY, 0600)).reset();
  EXPECT_EQ(listen(loop, parse_endpoint("unix:" + path).value()).error().code, Errc::exists);
  EXPECT_TRUE(std::filesystem::exists(path));
  EXPECT_EQ(listen(loop, parse_endpoint("unix:" + (directory / "no/sock")).value()).error().code,
            Errc::not_found);
}

TEST(Listener, DoesNotRemoveTheSocketFileOfASuccessor) {
  IoLoop loop;
  TemporaryDirectory directory;
  const std::string path = directory / "sock";
  auto first = listen_at(loop, "unix:" + path);
  ::unlink(path.c_str());
  auto second = listen_at(loop, "unix:" + path);
  first.clear();
  EXPECT_TRUE(connect_to("unix:" + path));
}

Task<void> accept_until_closed(Acceptor& acceptor, Error& error) {
  auto accepted = co_await acceptor.accept();
  if (!accepted) error = accepted.error();
}

Task<void> close_while_accepting(Executor& executor, Acceptor& acceptor) {
  Error error;
  TaskScope scope;
  scope.spawn(accept_until_closed(acceptor, error));
  co_await reschedule(executor);
  acceptor.close();
  co_await scope.join();
  EXPECT_EQ(error.code, Errc::cancelled);
}

TEST(Listener, CloseEndsAnAcceptInProgress) {
  IoLoop loop;
  auto acceptors = listen_at(loop, "tcp://127.0.0.1:0");
  loop.run(close_while_accepting(loop, *acceptors[0]));
  SimLoop sim(1);
  PipeAcceptor pipes(sim);
  sim.run(close_while_accepting(sim, pipes));
}

TEST(Listener, OutOfDescriptorsRefusesTheConnectionAndRecovers) {
  IoLoop loop;
  auto acceptors = listen_at(loop, "tcp://127.0.0.1:0");
  const OwnedFd refused = connect_to(acceptors[0]->address());
  const OwnedFd welcome = connect_to(acceptors[0]->address());
  rlimit old{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &old), 0);
  std::vector<OwnedFd> hogs;
  rlimit tight = old;
  tight.rlim_cur = 200;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
  for (OwnedFd fd(::dup(0)); fd; fd = OwnedFd(::dup(0))) hogs.push_back(std::move(fd));
  auto first = loop.run(acceptors[0]->accept());
  hogs.clear();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &old), 0);
  ASSERT_FALSE(first.has_value());
  EXPECT_EQ(first.error().code, Errc::too_large);
  EXPECT_EQ(read_available(refused.get()), "");
  auto second = loop.run(acceptors[0]->accept());
  ASSERT_TRUE(second);
  ASSERT_TRUE(loop.run((*second)->write_all(as_bytes("hi"))));
  EXPECT_EQ(read_available(welcome.get()), "hi");
}

// --- Service manager

// Runs in a child process, whose descriptor 3 it may use.
int serve_activation_socket(const std::string& path) {
  OwnedFd socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return 10;
  if (::listen(socket.get(), 5) != 0) return 11;
  // Above 3, so that the loop's own descriptors do not take it.
  if (::dup2(socket.get(), 3) != 3) return 12;
  if (socket.get() == 3) (void)socket.release();
  ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
  ::setenv("LISTEN_FDS", "1", 1);
  IoLoop loop;
  auto acceptors = adopt_activation_sockets(loop);
  if (!acceptors || acceptors->size() != 1) return 13;
  if ((*acceptors)[0]->address() != "unix:" + path || ::getenv("LISTEN_FDS") != nullptr) return 14;
  const OwnedFd client = connect_to("unix:" + path);
  auto stream = loop.run((*acceptors)[0]->accept());
  if (!stream || !loop.run((*stream)->write_all(as_bytes("active")))) return 15;
  if (read_available(client.get()) != "active") return 16;
  // Somebody else's variables are not for us.
  ::setenv("LISTEN_PID", "1", 1);
  ::setenv("LISTEN_FDS", "1", 1);
  acceptors = adopt_activation_sockets(loop);
  return acceptors && acceptors->empty() ? 42 : 17;
}

TEST(Activation, AdoptsTheSocketsOfTheServiceManager) {
  TemporaryDirectory directory;
  testing::GTEST_FLAG(death_test_style) = "fast";
  EXPECT_EXIT(::_exit(serve_activation_socket(directory / "sock")), testing::ExitedWithCode(42), "");
}

TEST(ServiceManager, IsNotified) {
  TemporaryDirectory directory;
  const std::string path = directory / "notify";
  const OwnedFd socket(::socket(AF_UNIX, SOCK_DGRAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  notify_service_manager("READY=1");
  ::unsetenv("NOTIFY_SOCKET");
  EXPECT_EQ(read_available(socket.get()), "READY=1");
  notify_service_manager("READY=1");
}

// --- Signals

Task<void> raise_and_wait(IoLoop& loop, std::vector<int>& seen) {
  SignalWatch watch(loop, {SIGUSR1, SIGHUP}, [&seen](int signal) { seen.push_back(signal); });
  ::kill(::getpid(), SIGHUP);
  while (seen.size() < 1) co_await sleep_for(loop, milliseconds(1));
  ::kill(::getpid(), SIGUSR1);
  while (seen.size() < 2) co_await sleep_for(loop, milliseconds(1));
  co_await watch.stop();
}

TEST(SignalWatch, TellsTheLoop) {
  block_signals({SIGUSR1, SIGHUP});
  IoLoop loop;
  std::vector<int> seen;
  loop.run(raise_and_wait(loop, seen));
  EXPECT_EQ(seen, (std::vector<int>{SIGHUP, SIGUSR1}));
}

}  // namespace
}  // namespace fdbnbd::net
