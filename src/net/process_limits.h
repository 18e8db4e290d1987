#pragma once

namespace fdbnbd::net {

// Lets this process have as many descriptors as the operating system allows it, which is often far more than
// it begins with: each connection takes one. First thing in main() of a server.
void raise_descriptor_limit();

}  // namespace fdbnbd::net
