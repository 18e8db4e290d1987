#pragma once

#include <cstdint>
#include <string>

#include "attach/link.h"
#include "base/clock.h"
#include "base/result.h"

// What keeps an attached device alive: new connections for those that died, and the volume's new size where
// it was resized.

namespace fdbnbd::attach {

// The device as the supervisor knows it.
class Device {
 public:
  virtual ~Device() = default;

  // Whether it is still attached as it was.
  virtual bool attached() const = 0;
  // Gives it a connection for a dead one. False: none was dead, and the connection is not used.
  virtual Result<bool> give(Link link) = 0;
  virtual Result<void> resize(uint64_t size_bytes) = 0;
};

// A state machine without a thread: the owner calls step() when it says, and earlier after a link died.
class Supervisor {
 public:
  struct Options {
    std::string device;        // for messages
    proto::ExportTerms terms;  // that the device was attached with
    uint32_t connections_count = 1;
  };

  // All that is referred to outlives this.
  Supervisor(Options options, Device& device, Servers& servers, const Clock& clock);

  // `count` connections died; more than there are is as many as there are.
  void on_links_dead(uint32_t count);

  // Does what is due, which may block as Servers does; how long until something is due again.
  Duration step();

  // The device is no more what it was: there is nothing left to do.
  bool over() const { return over_; }

 private:
  void reconnect();
  void put_off_reconnect(const Error& error);
  void follow_size(uint64_t size_bytes);
  // Whether the device can go on with these terms; the error says why not.
  Result<void> accept(const proto::ExportTerms& terms) const;

  const Options options_;
  Device& device_;
  Servers& servers_;
  const Clock& clock_;
  bool over_ = false;
  uint64_t size_bytes_;       // that the kernel was told last
  uint32_t dead_count_ = 0;   // connections that the kernel has said are dead and that have no successor
  bool outage_told_ = false;  // the log has the reason why there is no connection
  Duration reconnect_delay_;
  MonotonicTime next_reconnect_;
  MonotonicTime next_look_;
};

}  // namespace fdbnbd::attach
