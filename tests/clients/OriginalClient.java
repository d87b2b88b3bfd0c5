import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.net.Socket;

/**
 * Speaks as the client of the original project does: a connection for each command, one line there and one line back.
 * {@code java OriginalClient.java PORT [PASSWORD]}; fails at the first surprise. The original knows no password: with one,
 * every command is refused.
 */
public class OriginalClient {
    private final int port;

    private OriginalClient(int port) {
        this.port = port;
    }

    private String sendCommand(String command) throws IOException {
        try (Socket socket = new Socket("localhost", port)) {
            socket.setSoTimeout(10_000);
            PrintWriter out = new PrintWriter(socket.getOutputStream(), true);
            BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            out.println(command);
            return in.readLine();
        }
    }

    private void expect(String command, String wanted) throws IOException {
        String saw = sendCommand(command);
        if (!wanted.equals(saw)) {
            throw new AssertionError(command + ": saw '" + saw + "' instead of '" + wanted + "'");
        }
    }

    public static void main(String[] arguments) throws IOException {
        OriginalClient client = new OriginalClient(Integer.parseInt(arguments[0]));
        if (arguments.length > 1) {
            client.expect("GET name", "ERROR Authentication required.");
            client.expect("PUT name Dylan", "ERROR Authentication required.");
        } else {
            client.expect("PUT name Dylan", "OK");
            client.expect("PUT motto to the end  of the line", "OK");
            client.expect("GET name", "Dylan");
            client.expect("GET motto", "to the end  of the line");
            client.expect("get name", "Dylan");
            client.expect("DELETE name", "OK");
            client.expect("GET name", "NOT_FOUND");
            client.expect("DELETE name", "OK");
            String large = "x".repeat(1 << 20);
            client.expect("PUT large " + large, "OK");
            client.expect("GET large", large);
            client.expect("NONSENSE", "ERROR unknown command 'NONSENSE', with args beginning with: ");
        }
        System.out.println("ok");
    }
}
