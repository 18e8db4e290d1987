#include "net/dial.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <string>

#include "net/listener.h"
#include "net/socket_testing.h"

namespace fdbnbd::net {
namespace {

using namespace std::chrono_literals;

TEST(Dial, ConnectsToWhatListens) {
  const TemporaryDirectory directory;
  IoLoop loop;
  for (const std::string& where : {std::string("tcp://127.0.0.1:0"), "unix:" + (directory / "socket")}) {
    auto acceptors = listen_at(loop, where);
    ASSERT_EQ(acceptors.size(), 1U);
    const auto socket = dial(parse_endpoint(acceptors[0]->address()).value(), 10s);
    ASSERT_TRUE(socket.has_value()) << socket.error().what;
    auto stream = loop.run(acceptors[0]->accept());
    ASSERT_TRUE(stream);
    const ByteView hello = as_bytes("hello");
    ASSERT_TRUE(loop.run((*stream)->write_all(hello)));
    EXPECT_EQ(read_available(socket->get()), "hello");
  }
}

TEST(Dial, NobodyThereIsUnavailableOrNotFound) {
  const TemporaryDirectory directory;
  IoLoop loop;
  auto acceptors = listen_at(loop, "tcp://127.0.0.1:0");
  const Endpoint closed = parse_endpoint(acceptors.at(0)->address()).value();
  acceptors[0]->close();
  EXPECT_EQ(dial(closed, 10s).error().code, Errc::unavailable);
  EXPECT_EQ(dial(parse_endpoint("unix:" + (directory / "none")).value(), 10s).error().code, Errc::not_found);
}

TEST(Dial, AServerThatSaysNothingIsNotWaitedForForEver) {
  int sockets[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  const OwnedFd mine(sockets[0]);
  const OwnedFd other(sockets[1]);
  set_patience(mine.get(), 1ms);
  char byte = 0;
  EXPECT_EQ(::recv(mine.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, EAGAIN);
}

}  // namespace
}  // namespace fdbnbd::net
