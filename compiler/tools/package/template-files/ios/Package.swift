// swift-tools-version: 5.9

import PackageDescription

let package = Package(
    name: "@module@",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [
        .library(name: "@module@", targets: ["@module@"]),
    ],
    dependencies: [
        @dependency@,
    ],
    targets: [
        .target(
            name: "@module@",
            dependencies: [
                @products@,
            ],
            resources: [.copy("ModelFiles")]@linker@
        ),
        .testTarget(
            name: "@module@Tests",
            dependencies: ["@module@"],
            resources: [.copy("ModelFiles")]
        ),
    ]
)
