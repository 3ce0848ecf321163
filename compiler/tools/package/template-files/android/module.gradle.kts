plugins {
    id("com.android.library")
}

android {
    namespace = "@package@"
    compileSdk = 35

    defaultConfig {
        minSdk = @min_sdk@
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        consumerProguardFiles("consumer-rules.pro")
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    androidResources {
        noCompress += "@suffix@"
    }
}

dependencies {
    implementation("@requirement@")

    androidTestImplementation("androidx.test:runner:1.6.2")
    androidTestImplementation("junit:junit:4.13.2")
}
