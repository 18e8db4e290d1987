#include "net/listener.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "net/endpoint.h"
#include "net/io_loop.h"
#include "net/pipe_stream_testing.h"
#include "net/service_manager.h"
#include "net/socket_testing.h"

namespace fdbnbd::net {
namespace {

using testing::HasSubstr;

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

TEST(Listener, ANameIsLookedUpApartFromListening) {
  IoLoop loop;
  Endpoint endpoint = parse_endpoint("tcp://127.0.0.1:0").value();
  auto addresses = resolve(endpoint);
  ASSERT_TRUE(addresses);
  ASSERT_EQ(addresses->size(), 1u);
  // Not looked up again: there is no such host.
  endpoint.host = "not a host";
  EXPECT_EQ(resolve(endpoint).error().code, Errc::not_found);
  const auto acceptors = listen(loop, endpoint, std::move(*addresses));
  ASSERT_TRUE(acceptors);
  EXPECT_THAT(acceptors->at(0)->address(), testing::StartsWith("tcp://127.0.0.1:"));
  EXPECT_TRUE(resolve(parse_endpoint("unix:/run/x").value()).value().empty());
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

}  // namespace
}  // namespace fdbnbd::net
